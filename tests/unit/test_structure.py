"""The code's own shape: layers aside, what this project promises of its files."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import microsnoop

ROOT = Path(__file__).parents[2]
SOURCES = sorted(p for top in ("platform", "integrations", "apps") for p in (ROOT / top).rglob("*.py"))


def test_the_standard_librarys_platform_module_wins() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert not (ROOT / "tests" / "platform").exists()
    assert ROOT not in Path(platform.__file__).resolve().parents
    code = "import platform, sys; sys.exit(not platform.python_version())"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_import_is_light() -> None:
    code = "import microsnoop, sys; assert not {'torch', 'ray', 'numpy', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there() -> None:
    for name in microsnoop.__all__:
        assert getattr(microsnoop, name) is not None
    with pytest.raises(AttributeError, match="it offers"):
        _ = microsnoop.nothing


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_small_and_safe(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300, "split it"
    assert path.stem not in {"utils", "helpers", "misc", "common"}
    for forbidden in (
        r"^\s*except\s*:",
        r"allow_pickle=True",
        r"weights_only=False",
        r"yaml\.load\(",
        r"\bpickle\.",
    ):
        assert not re.search(forbidden, text, re.MULTILINE), forbidden
    assert not re.search(r"TODO|FIXME|raise NotImplementedError", text)


def test_cuda_is_named_in_one_file_of_the_models() -> None:
    naming = [
        p.name for p in (ROOT / "platform" / "microsnoop" / "models").glob("*.py") if "cuda" in p.read_text()
    ]
    assert naming == ["device.py"]


def test_shipped_weights_are_what_their_card_says() -> None:
    from microsnoop.models.checkpoint import read_encoder

    for path in (ROOT / "platform" / "microsnoop" / "models" / "weights").glob("*.safetensors"):
        card = read_encoder(path).card
        assert path.stat().st_size < 12e6
        assert card.licence
        assert card.sources

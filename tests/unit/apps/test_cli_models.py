"""``microsnoop models``: cards that say what the head is, and a head fitted from the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICROSNOOP_MODELS", str(tmp_path / "models"))


def test_show_says_what_the_head_is(run: Run) -> None:
    code, out, _ = run("models", "show", "untrained")
    assert code == 0
    assert "the architecture's own mean" in out


def test_whiten_show_list_and_embed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 50)).astype(np.uint8)
    np.save(tmp_path / "mine" / "a.npy", pixels)
    code, out, err = run(
        "models", "whiten", "untrained", "--pool", "mine", "--name", "new", "--pooling", "mean",
        "--layers", "0", "--crops", 40, "--input-px", 16, "--seed", 3,
    )  # fmt: skip
    assert code == 0, err
    assert "head: mean over space of encoder map 0, whitened without labels; " in out
    assert "use it with `encoder: new`" in out
    code, out, _ = run("models", "show", "new")
    assert code == 0
    assert "mean over space of encoder map 0, whitened without labels" in out
    assert "seed 3" in out
    dry = ("embed", "--folder", "mine", "--run-dir", "r", "--encoder", "new", "--dry-run")
    for more, width in (((), "32"), (("--pooling", "paper"), "256"), (("--set", "pooling=paper"), "256")):
        code, out, err = run(*dry, *more)
        assert code == 0, err
        assert f"new, 2 × {width} numbers a row, input 16 px" in out


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--layers", "last"], "--layers needs numbers", 2),
        (["--layers", "3,2"], "do not describe a head", 2),
        (["--crops", "100"], "too few for vectors of 512", 2),
        (["--name", "trial"], "cannot be called 'trial'", 1),
        (["--pool", "absent"], "absent does not exist", 1),
    ],
)
def test_errors_are_one_line(run: Run, tmp_path: Path, arguments: list[str], message: str, code: int) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 9), np.uint8))
    got, _, err = run("models", "whiten", "untrained", "--pool", ".", "--name", "x", *arguments)
    assert message in err
    assert got == code
    assert "Traceback" not in err

"""The command line: help that teaches, errors in one line with the fix, exit codes as promised."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from microsnoop_apps import cli
from microsnoop_apps.commands import embed_config
from microsnoop_apps.reference import TARGET, reference

ROOT = Path(__file__).parents[3]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MICROSNOOP_MODELS", str(tmp_path / "models"))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "tests" / "golden" / "run_v1", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(3):
        tifffile.imwrite(folder / f"{k}.tif", np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) * (k + 1))
    return folder


def test_help_shows_every_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "microsnoop_apps", "--help"], capture_output=True, text=True, check=True
    )
    commands = ("embed", "verify", "retry", "models", "export", "umap", "demo", "evaluate", "doctor")
    for command in (*commands, "pretrain", "segment", "gallery", "overlay"):
        assert f" {command} " in shown.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from microsnoop_apps.cli import app;"
        "assert CliRunner().invoke(app, ['embed', '--help']).exit_code == 0;"
        "assert CliRunner().invoke(app, ['evaluate', '--help']).exit_code == 0;"
        "heavy = {'torch', 'ray', 'scanpy', 'umap', 'anndata', 'pandas', 'pyarrow', 'sklearn', 'matplotlib'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_verify_says_yes_and_no(run: Run, finished: Path) -> None:
    code, out, _ = run("verify", finished)
    assert code == 0
    assert "expected 5 = written 4 + rejected 1 (shape_mismatch 1)" in out
    part = next((finished / "embeddings").iterdir())
    data = bytearray(part.read_bytes())
    data[200] ^= 1
    part.write_bytes(data)
    code, out, _ = run("verify", finished)
    assert code == 1
    assert f"checksum differs):\n  {part.name}" in out
    part.unlink()
    code, out, _ = run("verify", finished)
    assert code == 1
    assert "NOT verified" in out


def test_export_and_umap(run: Run, finished: Path, tmp_path: Path) -> None:
    code, out, _ = run("export", finished, "--out", tmp_path / "x.zarr")
    assert (code, out) == (0, f"AnnData: {tmp_path / 'x.zarr'}\n")
    code, out, _ = run(
        "umap", finished, "--color", "phase", "--out", tmp_path / "u.png", "--save", tmp_path / "u.h5ad"
    )
    assert code == 0
    assert (tmp_path / "u.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "u.h5ad").is_file()


def test_models(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("models", "list")
    assert code == 0
    assert "snoop-trial (default)" in out
    assert "untrained" in out
    code, out, _ = run("models", "show", "untrained")
    assert code == 0
    assert "NOT TRAINED" in out
    code, _, err = run("models", "show", "nothing")
    assert code == 1
    assert err.startswith("error: there is no encoder named 'nothing'\n  fix: known are snoop-trial, ")
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    code, _, err = run("models", "import", tmp_path / "bad.pth")
    assert code == 1
    assert "cannot read tensors" in err
    assert "Traceback" not in err


def test_dry_run_shows_plan_and_records_and_writes_nothing(run: Run, images: Path, tmp_path: Path) -> None:
    code, out, _ = run(
        "embed", "--folder", images, "--run-dir", tmp_path / "r", "--dry-run", "--encoder", "untrained"
    )
    assert code == 0
    for expected in (
        "images",
        "3 (typical: 96 × 128 px uint16)",
        "actors",
        "block",
        "NOT TRAINED",
        "0.tif",
        "Nothing was computed",
    ):
        assert expected in out
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["embed"], "nothing to embed", 2),
        (["embed", "--folder", "x"], "no place for the results", 2),
        (["embed", "--folder", "x", "--run-dir", "r"], "the folder x does not exist", 1),
        (["embed", "--folder", "images", "--run-dir", "r", "--set", "tile"], "--set needs key=value", 2),
        (["embed", "--folder", "images", "--run-dir", "r", "--set", "tile.x=1"], "tile.x: Extra inputs", 2),
        (
            ["embed", "--folder", "images", "--run-dir", "r", "--encoder", "no"],
            "there is no encoder named 'no'",
            1,
        ),
        (["embed", "--folder", "images", "--run-dir", "r", "--input-px", "100"], "multiple of 8", 2),
        (["embed", "--folder", "images", "--run-dir", "r", "--device", "cuda"], "'cuda' is not available", 2),
        (["embed", "--folder", "images", "--run-dir", "r", "--memory-gb", "0.1"], "is too little", 2),
        (["embed", "--folder", "images", "--run-dir", "images"], "is not empty and not a run directory", 1),
        (["embed", "--folder", "images", "--run-dir", "r", "--fork", "q"], "is not a run", 2),
        (["embed", "missing.yaml"], "cannot read the configuration", 2),
        (["verify", "images"], "is not a run directory", 1),
        (["export", "images"], "is not a run directory", 1),
        (["retry", "images"], "is not a run directory", 1),
    ],
)
def test_errors_are_one_line_with_the_fix(
    run: Run, images: Path, arguments: list[str], message: str, code: int
) -> None:
    assert images.is_dir()
    if "cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
    got, _, err = run(*arguments)
    assert message in err
    assert got == code
    assert "Traceback" not in err


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["microsnoop", "verify", str(tmp_path), "--debug"])
    with pytest.raises(Exception, match="not a run directory"):
        cli.main()


def test_options_and_settings_lie_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"input": {"manifest": "m.csv"}, "run_dir": "r", "mode": "tile"}))
    cfg = embed_config(
        path, {"input.folder": "f", "mode": "native"}, ["tile.overlap=0.3", "input.channels={DNA: 0}"]
    )
    assert cfg.input.folder == "f"
    assert cfg.input.manifest is None  # a source on the command line replaces the file's
    assert cfg.mode == "native"
    assert cfg.tile.overlap == 0.3
    assert cfg.input.channels == {"DNA": 0}


def test_doctor(run: Run) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    for expected in ("torch", "cores", "memory", "snoop-trial", "Everything needed is there."):
        assert expected in out


def test_configuration_reference_is_up_to_date() -> None:
    assert (ROOT / TARGET).read_text(encoding="utf-8") == reference(), (
        "run: python -m microsnoop_apps.reference"
    )

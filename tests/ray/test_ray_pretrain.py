"""Pretraining on real Ray Train: killed and resumed, a worker lost, two workers, a stream, a stop."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from microsnoop.models.checkpoint import read_encoder
from microsnoop.models.registry import build_encoder

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
STEPS = 30
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Start `microsnoop pretrain` on tiles of the sample images; settings override the quick recipe."""

    def make(run_dir: Path | None = None, **changes: Any) -> subprocess.Popen[str]:
        settings: dict[str, Any] = {
            "name": "tiny",
            "run_dir": str(run_dir or tmp_path / "run"),
            "pool": {
                "images": {"folder": str(ROOT / "examples" / "nuclei" / "images"), "limit": 6},
                "tile_px": 64,
                "validation": 0.2,
            },
            "mask": {"patch_px": 4},
            "projector": [32, 32],
            "phases": [{"input_px": 16, "steps": STEPS, "batch": 8}],
            "head": {"crops": 640},
            "report": {"log_every": 2, "watch_every": 10, "watch_crops": 8, "checkpoint_minutes": 0.01},
            "execution": {"device": "cpu", "threads": 1},
        }
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings | changes))
        return subprocess.Popen(
            [sys.executable, "-m", "microsnoop_apps", "pretrain", str(recipe)],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip

    return make


def _wait(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == code, out
    return out


def _steps(run_dir: Path) -> list[int]:
    log = run_dir / "log.csv"
    if not log.is_file():
        return []
    with log.open(newline="") as stream:
        return [int(row["step"]) for row in csv.DictReader(stream) if row["step"]]


def _until(condition: Callable[[], bool], process: subprocess.Popen[str], *, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)


def _checkpoints(run_dir: Path) -> list[Path]:
    return list(run_dir.glob("checkpoints/checkpoint_*/state.json"))


def _check_encoder(run_dir: Path) -> None:
    bundle = read_encoder(run_dir / "tiny.safetensors")
    assert bundle.card.trained
    assert bundle.card.dim == 512  # mean and standard deviation, whitened
    import torch

    vectors = build_encoder(bundle)(torch.rand(3, 1, 32, 32)).detach().numpy()
    assert vectors.shape == (3, 512)
    assert np.isfinite(vectors).all()
    for picture in ("loss.png", "panel.png"):
        assert (run_dir / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(900)
def test_whatever_is_killed_the_log_is_unbroken(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = start()
    _until(lambda: bool(_checkpoints(run_dir)) and len(_steps(run_dir)) >= 6, process)
    os.killpg(process.pid, signal.SIGKILL)  # driver, raylet, workers: as when a machine goes down
    process.communicate()
    _until_gone(process.pid)
    before = _steps(run_dir)
    assert before[-1] < STEPS - 1

    process = start()
    _until(lambda: len(_steps(run_dir)) > len(before), process)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(child.cmdline())
    ]
    assert workers
    workers[0].kill()
    assert f"complete: {STEPS} of {STEPS} steps" in _wait(process)
    assert _steps(run_dir) == list(range(STEPS))
    _check_encoder(run_dir)
    account = json.loads((run_dir / "pool.json").read_text())
    with (run_dir / "rejects.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) == account["rejected"] > 0
    assert sum(account.values()) == 6 * 81  # fields of 512 px in tiles of 64 px

    assert f"complete: {STEPS} of {STEPS} steps" in _wait(start())  # nothing is trained again
    assert _steps(run_dir) == list(range(STEPS))
    assert "was begun with another recipe: seed: 0 -> 1" in _wait(start(seed=1), code=1)


@pytest.mark.timeout(900)
def test_sigterm_saves_and_two_workers_finish_what_one_began(start: Start, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    report = {"log_every": 2, "watch_every": 10, "watch_crops": 8, "checkpoint_minutes": 100}
    process = start(report=report)
    _until(lambda: len(_steps(run_dir)) >= 6, process)
    assert not _checkpoints(run_dir)
    process.send_signal(signal.SIGTERM)
    out = _wait(process, code=130)
    assert "interrupted" in out
    assert "goes on from the checkpoint" in out
    assert _checkpoints(run_dir)
    done = len(_steps(run_dir))
    assert done < STEPS

    both = {"device": "cpu", "threads": 1, "workers": 2}
    assert f"complete: {STEPS} of {STEPS} steps" in _wait(start(report=report, execution=both))
    assert _steps(run_dir) == list(range(STEPS))
    _check_encoder(run_dir)


@pytest.mark.timeout(600)
def test_a_pool_that_does_not_fit_streams(start: Start, tmp_path: Path) -> None:
    pool = {
        "images": {"folder": str(ROOT / "examples" / "nuclei" / "images"), "limit": 6},
        "tile_px": 64,
        "placement": "stream",
    }
    out = _wait(start(pool=pool))
    assert "in stream" in out
    assert _steps(tmp_path / "run") == list(range(STEPS))
    _check_encoder(tmp_path / "run")


@pytest.mark.timeout(600)
def test_a_useless_pool_is_one_readable_line(start: Start, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    out = _wait(start(pool={"images": {"folder": str(bad)}, "tile_px": 64}), code=1)
    assert "the pool has no usable tile" in out
    assert "broken.png" in out
    assert "Traceback" not in out


def _until_gone(session: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        alive = [p for p in psutil.process_iter() if _session(p.pid) == session and p.status() != "zombie"]
        if not alive:
            return
        time.sleep(0.5)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1

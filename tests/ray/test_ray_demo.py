"""The demo as a new user runs it: twice, from the top of the repository, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def _demo(out: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "microsnoop_apps", "demo", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _balanced_accuracy(printed: str, encoder: str) -> float:
    found = re.search(rf"^ *{encoder} .* (0\.\d{{3}}) *$", printed, re.MULTILINE)
    assert found, printed
    return float(found[1])


@pytest.mark.timeout(1200)
def test_the_demo_scores_above_its_baselines_and_computes_nothing_twice(tmp_path: Path) -> None:
    printed = _demo(tmp_path)
    encoders = ("snoop-trial", "untrained", "features", "efficientnet-lite0")
    assert printed.count("expected 684 = written 684 + rejected 0") == 2 * len(encoders)  # summary and verify
    assert f"{684 * len(encoders):,} computed in all" in printed
    chance = _balanced_accuracy(printed, re.escape("chance (most frequent line)"))
    scores = {name: _balanced_accuracy(printed, name) for name in encoders}
    assert chance == 0.25 < scores["untrained"] < scores["snoop-trial"]
    for made in ("snoop-trial.h5ad", "umap.png"):
        assert str(tmp_path / made) in printed
        assert (tmp_path / made).stat().st_size > 10_000

    again = _demo(tmp_path)
    assert re.search(r"^0 computed in all", again, re.MULTILINE)
    assert {name: _balanced_accuracy(again, name) for name in encoders} == scores

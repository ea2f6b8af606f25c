"""Log, pictures, collapse check, and the encoder that comes out."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from microsnoop.core.errors import ConfigError, RunError
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.models.checkpoint import read_encoder
from microsnoop.models.registry import build_encoder, load_encoder
from microsnoop.train.finish import begin_with, crops, finish, refresh_statistics
from microsnoop.train.pool import Pool
from microsnoop.train.record import Recorder, read_log
from microsnoop.train.state import TrainState
from microsnoop.train.watch import Watch, Watched, spread_and_rank

CPU = torch.device("cpu")
Make = Callable[..., PretrainConfig]


def _row(step: int, loss: float = 1.0) -> dict[str, float]:
    return {"step": float(step), "loss": loss, "planes_per_s": 10.0, "steps_per_s": 2.0}


def test_a_resumed_log_has_every_step_once(tmp_path: Path) -> None:
    first = Recorder(tmp_path, step=0, total=10)
    first.steps([_row(0), _row(1), _row(2, 5.0), _row(3, 5.0)])
    first.close()
    with (tmp_path / "log.csv").open("a") as stream:
        stream.write("4,1")  # the machine went down while it wrote
    second = Recorder(tmp_path, step=2, total=10)
    second.steps([_row(2), _row(3)])
    second.close()
    rows = read_log(tmp_path / "log.csv")
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    assert {row["loss"] for row in rows} == {"1"}


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss\n0,1\n1\n2,1\n")
    with pytest.raises(RunError, match=r"log\.csv is damaged"):
        Recorder(tmp_path, step=2, total=10)


def test_progress_says_how_long_it_takes(tmp_path: Path) -> None:
    from microsnoop.train.run import read_progress

    assert read_progress(tmp_path) is None
    Recorder(tmp_path, step=0, total=101).steps([_row(0)])
    progress = read_progress(tmp_path)
    assert progress is not None
    assert (progress.step, progress.total, progress.seconds_left) == (1, 101, 50.0)


def test_pictures_show_what_was_watched(tmp_path: Path, pool: Pool, recipe: Make) -> None:
    state = TrainState(recipe(), CPU)
    watch = Watch(state.cfg, pool, CPU)
    seen = watch.look(state.mean, step=5, side_px=32)
    again = watch.look(state.mean, step=6, side_px=32)
    assert (seen.masked_loss, seen.spread) == (again.masked_loss, again.spread)  # fixed crops and masks
    assert {name: image.shape for name, image in seen.panel.items()} == dict.fromkeys(
        ("original", "masked", "reconstructed", "error"), (len(seen.kinds), 32, 32)
    )
    assert np.isnan(seen.panel["masked"]).mean() == pytest.approx(0.25)
    recorder = Recorder(tmp_path, step=0, total=10)
    recorder.steps([_row(0), _row(1, 0.5)])
    recorder.watched(seen)
    recorder.close()
    for name in ("loss.png", "panel.png", "panels/step-0000005.png"):
        picture = np.asarray(Image.open(tmp_path / name).convert("L"))
        assert picture.std() > 10, name
    with (tmp_path / "watch.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert float(row["masked_loss"]) == pytest.approx(seen.masked_loss, rel=1e-4)
    assert list((tmp_path / "tensorboard").iterdir())


def test_collapse_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    healthy = torch.randn(200, 64, generator=generator)
    spread, rank = spread_and_rank(healthy)
    assert spread > 0.9
    assert 40 < rank <= 64
    alike = torch.ones(200, 64) + 1e-3 * healthy
    line = torch.outer(torch.linspace(-1, 1, 200), healthy[0])
    assert spread_and_rank(alike)[0] < 0.05
    assert spread_and_rank(line)[1] < 2
    for features in (alike, line):
        warning = Watched(7, None, *spread_and_rank(features), {}, ()).warning()
        assert "step 7: the features are collapsing" in warning
    assert Watched(7, None, spread, rank, {}, ()).warning() == ""


def test_the_encoder_that_comes_out_can_be_loaded(tmp_path: Path, pool: Pool, recipe: Make) -> None:
    cfg = recipe(name="mine", head={"pooling": "mean", "whiten": False, "crops": 16})
    state = TrainState(cfg, CPU)
    path = finish(state, pool, tmp_path)
    bundle = read_encoder(path)
    assert bundle.card.name == "mine"
    assert bundle.card.dim == 256
    assert bundle.card.value_range == cfg.views.clip
    assert any("tiles)" in source for source in bundle.card.sources)
    planes = torch.rand(2, 1, 32, 32)
    expected = state.mean.encoder(planes)
    assert torch.allclose(build_encoder(bundle)(planes), expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_unmasked_crops(pool: Pool, recipe: Make) -> None:
    state = TrainState(recipe(), CPU)
    encoder = state.mean.encoder
    batches = list(crops(pool, state.cfg, count=64, side_px=32, stream=0))
    refresh_statistics(encoder, iter(batches))
    first = encoder.stages[0].convs[0].norm
    planes = torch.cat(batches)
    assert first.running_mean is not None
    assert first.running_var is not None
    assert float(first.running_mean) == pytest.approx(float(planes.mean()), rel=1e-4)
    assert float(first.running_var) == pytest.approx(float(planes.var()), rel=0.05)
    assert first.momentum == 0.1
    assert not encoder.training


def test_training_can_begin_with_an_encoder(recipe: Make) -> None:
    state = TrainState(recipe(), CPU)
    begin_with(state, "untrained")
    weights = load_encoder("untrained")
    planes = torch.rand(1, 1, 32, 32)
    state.learner.eval()
    expected = build_encoder(weights)(planes)
    assert torch.allclose(state.learner.encoder(planes), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="only a microsnoop-cnn can be trained"):
        begin_with(state, "pixels16")

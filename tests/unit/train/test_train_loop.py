"""The loop: a golden loss curve, exact resuming, workers that share a batch, a loss that is not finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from microsnoop.core.errors import RunError
from microsnoop.core.pretrain_config import PretrainConfig
from microsnoop.train.loop import (
    Decision,
    LogRow,
    MemorySource,
    Share,
    Trainer,
    TrainingDiverged,
    make_inputs,
)
from microsnoop.train.pool import Pool
from microsnoop.train.state import WEIGHTS, TrainState

GOLDEN = Path(__file__).parents[2] / "golden" / "pretrain_loss.json"
CPU = torch.device("cpu")
Make = Callable[..., PretrainConfig]


def _train(state: TrainState, pool: Pool, *, until: int | None = None) -> list[LogRow]:
    rows: list[LogRow] = []

    def between(new: list[LogRow], last: bool) -> Decision:
        rows.extend(new)
        return Decision(stop=until is not None and state.step >= until)

    Trainer(state, MemorySource(pool, seed=state.cfg.seed, share=Share())).run(between)
    return rows


def test_golden_loss_curve(pool: Pool, recipe: Make) -> None:
    """20 steps of both terms; a change of masks, crops, weights, losses or optimiser shows here.

    Written anew by running this file as a script, on purpose or not at all.
    """
    expected = json.loads(GOLDEN.read_text())
    slow = {
        "peak_lr": 2e-4
    }  # at a higher rate the rounding of another CPU grows to some per cent in 20 steps
    rows = _train(TrainState(recipe(optimiser=slow), CPU), pool)
    assert [row["step"] for row in rows] == list(range(20))
    for name in ("loss", "masked", "vicreg", "lr"):
        assert [row[name] for row in rows] == pytest.approx(expected[name], rel=1e-2), name
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


def test_a_resumed_run_is_the_unbroken_run(pool: Pool, recipe: Make, tmp_path: Path) -> None:
    small = {"phases": [{"input_px": 16, "steps": 12, "batch": 4}], "mask": {"patch_px": 4}}
    cfg = recipe(objective={"masked": 10, "vicreg": 1, "dino": 0.5}, **small)
    whole = TrainState(cfg, CPU)
    expected = _train(whole, pool)

    first = TrainState(cfg, CPU)
    rows = _train(first, pool, until=5)
    assert first.step == 5
    first.save(tmp_path / "checkpoint")
    second = TrainState(cfg.model_copy(update={"seed": cfg.seed}), CPU)
    second.load(tmp_path / "checkpoint")
    assert second.step == 5
    rows += _train(second, pool)

    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]  # to the bit
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, second.tensors()[name]), name


def test_the_learning_rate_warms_up_and_comes_down(pool: Pool, recipe: Make) -> None:
    small = {"phases": [{"input_px": 16, "steps": 20, "batch": 4}], "mask": {"patch_px": 4}}
    cfg = recipe(optimiser={"warmup": 0.25, "peak_lr": 1e-3}, **small)
    rates = [row["lr"] for row in _train(TrainState(cfg, CPU), pool)]
    peak = 1e-3 * (8 / 256) ** 0.5  # four tiles, two views each
    assert rates[:5] == pytest.approx([peak * k / 5 for k in range(1, 6)])
    assert max(rates) == pytest.approx(peak)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.02 * peak


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_the_batch_of_one(pool: Pool, recipe: Make, world: int) -> None:
    cfg = recipe(phases=[{"input_px": 32, "steps": 5, "batch": 8}])
    phase = cfg.phases[0]
    tiles, ids = MemorySource(pool, seed=0, share=Share()).take(3, 8)
    planes, mask = make_inputs(cfg, phase, tiles, step=3, share=Share())
    seen = []
    for rank in range(world):
        share = Share(rank, world)
        my_tiles, my_ids = MemorySource(pool, seed=0, share=share).take(3, 8)
        my_planes, my_mask = make_inputs(cfg, phase, my_tiles, step=3, share=share)
        assert list(my_ids) == list(ids)[rank::world]
        mine = torch.cat([torch.arange(8)[rank::world], 8 + torch.arange(8)[rank::world]])
        assert torch.allclose(my_planes, planes[mine], atol=1e-5)
        assert torch.equal(my_mask, mask[mine])
        seen.extend(my_ids)
    assert sorted(seen) == sorted(ids)


def test_two_phases_change_side_and_batch(pool: Pool, recipe: Make) -> None:
    phases = [{"input_px": 32, "steps": 3, "batch": 4}, {"input_px": 48, "steps": 2, "batch": 2}]
    cfg = recipe(phases=phases, report={"log_every": 1, "watch_crops": 8})
    state = TrainState(cfg, CPU)
    shapes: list[tuple[int, ...]] = []
    state.learner.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    _train(state, pool)
    assert shapes == [(8, 1, 32, 32)] * 3 + [(4, 1, 48, 48)] * 2


def test_a_loss_that_is_not_finite_stops_and_names_the_tiles(pool: Pool, recipe: Make) -> None:
    state = TrainState(recipe(), CPU)
    _train(state, pool, until=5)
    with torch.no_grad():
        state.learner.encoder.stages[0].convs[0].conv.weight[0] = float("nan")
    _, ids = MemorySource(pool, seed=0, share=Share()).take(5, 4)
    with pytest.raises(TrainingDiverged, match="at step 5 the loss is nan") as caught:
        _train(state, pool)
    assert all(tile_id in caught.value.message for tile_id in ids)
    assert "peak_lr" in caught.value.hint


def test_eight_planes_can_be_learnt_by_heart(pool: Pool, recipe: Make) -> None:
    cfg = recipe(
        objective={"masked": 1},
        phases=[{"input_px": 16, "steps": 300, "batch": 8}],
        mask={"patch_px": 4},
        report={"log_every": 50, "watch_crops": 8},
        views={"scale": (0.999, 1.0), "rotate": "none", "flip": False, "jitter_probability": 0},
        optimiser={"peak_lr": 6e-3},
    )
    few = pool.subset(torch.arange(8).numpy(), alpha=1.0)
    rows = _train(TrainState(cfg, CPU), few)
    start, end = (sum(row["masked"] for row in part) / 5 for part in (rows[:5], rows[-5:]))
    assert end < start / 10


def test_a_damaged_or_foreign_checkpoint_is_refused(recipe: Make, tmp_path: Path) -> None:
    state = TrainState(recipe(), CPU)
    state.save(tmp_path)
    with pytest.raises(RunError, match="another recipe"):
        TrainState(recipe(seed=1), CPU).load(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\0" * 100)
    with pytest.raises(RunError, match="is damaged"):
        state.load(tmp_path)

"""The plan follows the memory and the devices there are, and says what it does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError, InputError
from microsnoop.models.registry import load_encoder
from microsnoop.pipelines.cluster import Resources, logical_cpus, object_store_bytes
from microsnoop.pipelines.embed import PreparedRun, prepare
from microsnoop.pipelines.plan import ExecutionPlan, make_plan

GIB = 2**30


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    np.save(tmp_path / "stack.npy", np.zeros((64, 3, 48, 64), np.uint16))
    return tmp_path


def config(folder: Path, **changes: object) -> EmbedConfig:
    # an encoder of 224 px that bf16 is allowed for, whatever the default encoder is
    base = {"input": {"folder": str(folder), "stack": True}, "run_dir": "r", "encoder": "untrained"}
    return EmbedConfig.model_validate(base | changes)


def plan(
    folder: Path, *, device: str = "cpu", cpus: int = 2, gpus: int = 0, gib: float = 16, **changes: object
) -> ExecutionPlan:
    cfg = config(folder, **changes)
    run = prepare(cfg)
    return make_plan(
        cfg,
        run.bundle.card,
        device=device,
        resources=Resources(cpus, gpus, int(gib * GIB), local=True),
        records=run.inputs.records,
        probed=run.probed,
    )


@pytest.mark.parametrize(
    ("cpus", "actors", "threads"), [(1, 1, 1), (2, 1, 2), (4, 1, 4), (8, 2, 4), (16, 4, 4)]
)
def test_cores_are_shared_among_actors(stack: Path, cpus: int, actors: int, threads: int) -> None:
    found = plan(stack, cpus=cpus, gib=64)
    assert (found.actors, found.device.threads) == (actors, threads)
    assert actors * threads <= max(cpus, 1)


def test_little_memory_means_fewer_actors_and_too_little_is_an_error(stack: Path) -> None:
    roomy, tight = plan(stack, cpus=32, gib=64), plan(stack, cpus=32, gib=3)
    assert tight.actors < roomy.actors == 8
    with pytest.raises(
        ConfigError, match=r"memory_gb = 0\.5 is too little: one actor with a batch of 4 planes"
    ):
        plan(stack, execution={"memory_gb": 0.5})


def test_one_actor_a_gpu_or_several(stack: Path) -> None:
    found = plan(stack, device="cuda", gpus=2, execution={"precision": "fp32"})
    assert (found.actors, found.num_gpus_per_actor, found.device.batch_planes) == (2, 1.0, 512)
    half = plan(stack, device="cuda", gpus=2, execution={"num_gpus_per_actor": 0.5, "precision": "fp32"})
    assert (half.actors, half.num_gpus_per_actor) == (4, 0.5)


def test_users_choices_win(stack: Path) -> None:
    found = plan(
        stack, cpus=8, execution={"actors": 3, "batch_planes": 17, "memory_gb": 8, "precision": "bf16"}
    )
    assert (found.actors, found.device.batch_planes, found.device.precision) == (3, 17, "bf16")
    assert found.memory_bytes == 8 * GIB


def test_a_resumed_run_keeps_its_precision(stack: Path) -> None:
    cfg, run = config(stack), prepare(config(stack))
    arguments = {
        "device": "cpu", "resources": Resources(2, 0, 8 * GIB, local=True), "records": run.inputs.records,
        "probed": run.probed,
    }  # fmt: skip
    card = load_encoder("untrained").card
    assert make_plan(cfg, card, precision="bf16", **arguments).device.precision == "bf16"
    forced = config(stack, execution={"precision": "fp32"})
    assert make_plan(forced, card, precision="bf16", **arguments).device.precision == "fp32"


def test_blocks_are_small_enough_for_progress_and_large_enough_for_the_encoder(stack: Path) -> None:
    assert plan(stack).records_per_block == 64 // 8  # at least eight blocks an actor
    assert plan(stack, mode="tile", input_px=16).records_per_block <= 8
    big = stack / "big"
    big.mkdir()
    np.save(big / "big.npy", np.zeros((2, 4096, 4096), np.uint16))
    found = plan(big, input={"folder": str(big)})
    assert found.records_per_block == 1


def test_the_plan_can_be_read(stack: Path) -> None:
    lines = dict(plan(stack).describe())
    assert lines["device"] == "cpu, fp32" or lines["device"] == "cpu, bf16"
    assert lines["actors"] == "1 × 2 threads"
    assert lines["memory"] == "16.0 GiB"


def test_rays_share() -> None:
    assert logical_cpus(1) == logical_cpus(2) == 4  # fewer would starve the readers of a held CPU
    assert logical_cpus(16) == 18
    assert object_store_bytes(0) == 200 * 2**20
    assert object_store_bytes(100 * GIB) == 4 * GIB


def test_channels_of_the_majority(tmp_path: Path) -> None:
    for k in range(5):
        np.save(tmp_path / f"{k}.npy", np.zeros((3 if k == 0 else 2, 32, 32), np.uint8))
    (tmp_path / "z.npy").write_bytes(b"")
    run: PreparedRun = prepare(
        EmbedConfig.model_validate({"input": {"folder": str(tmp_path)}, "run_dir": "r"})
    )
    assert run.probed.channels == ("c0", "c1")
    assert dataclasses.astuple(run.probed)[-3:] == (1, 1, 6)  # disagreeing, unreadable, looked at


def test_nothing_usable_is_an_error_that_names_the_first_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 1 images .*a\.png: the file is empty"):
        prepare(EmbedConfig.model_validate({"input": {"folder": str(tmp_path)}, "run_dir": "r"}))


def test_channels_nobody_has(stack: Path) -> None:
    cfg = config(stack, input={"folder": str(stack), "stack": True, "channels": ["DAPI"]})
    with pytest.raises(InputError, match="no channel 'DAPI'; it has c0, c1, c2"):
        prepare(cfg)

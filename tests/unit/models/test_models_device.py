"""Devices, precision, batches and out-of-memory retries, without a GPU."""

from __future__ import annotations

import logging
import weakref

import pytest
import torch
from torch import nn

from microsnoop.core.errors import ConfigError
from microsnoop.models import device
from microsnoop.models.device import DevicePlan, DeviceRunner


class Recorder(nn.Module):
    """Planes -> (mean, maximum); notes the batches it sees and runs out of memory above ``limit`` planes."""

    def __init__(self, limit: int = 10**9) -> None:
        super().__init__()
        self.limit = limit
        self.seen: list[int] = []

    def forward(self, planes):
        self.seen.append(len(planes))
        if len(planes) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (made up)")
        return torch.stack([planes.mean(dim=(1, 2, 3)), planes.amax(dim=(1, 2, 3))], dim=1)


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 8, 8)


def plan(batch: int, **changes) -> DevicePlan:
    return DevicePlan("cpu", changes.pop("precision", "fp32"), batch, threads=1, **changes)


@pytest.fixture
def eager(monkeypatch):
    """torch.compile that compiles nothing."""
    compiled = []

    def identity(module):
        compiled.append(module)
        return module

    monkeypatch.setattr(torch, "compile", identity)
    return compiled


@pytest.mark.parametrize(
    ("count", "batch", "seen"), [(7, 3, [3, 3, 1]), (6, 3, [3, 3]), (1, 8, [1]), (5, 1, [1] * 5)]
)
def test_planes_go_through_in_batches_and_come_back_in_order(count, batch, seen):
    module = Recorder()
    vectors = DeviceRunner(module, plan(batch))(numbered(count))
    assert module.seen == seen
    assert torch.equal(vectors[:, 0], torch.arange(count, dtype=torch.float32))
    assert vectors.dtype == torch.float32
    assert not vectors.requires_grad


@pytest.mark.parametrize(
    ("limit", "seen", "kept"),
    [
        (8, [8, 8, 4], 8),
        (5, [8, 4, 4, 4, 4, 4], 4),
        (1, [8, 4, 2] + [1] * 20, 1),
    ],
)
def test_full_memory_halves_the_batch_and_loses_nothing(limit, seen, kept, caplog):
    module = Recorder(limit)
    runner = DeviceRunner(module, plan(8))
    with caplog.at_level(logging.WARNING):
        vectors = runner(numbered(20))
    assert module.seen == seen
    assert torch.equal(vectors[:, 0], torch.arange(20, dtype=torch.float32))
    assert runner.batch_planes == kept
    assert [r.args for r in caplog.records] == [(b,) for b in (4, 2, 1) if b >= kept and kept < 8]
    module.seen.clear()
    runner(numbered(kept))
    assert module.seen == [kept]  # the smaller batch is kept for later calls


def test_memory_that_fills_up_half_way(caplog):
    class FillsUp(Recorder):
        def forward(self, planes):
            self.limit = 4 if len(self.seen) < 2 else 2
            return super().forward(planes)

    module = FillsUp()
    vectors = DeviceRunner(module, plan(4))(numbered(13))
    assert torch.equal(vectors[:, 0], torch.arange(13, dtype=torch.float32))
    assert module.seen == [4, 4, 4, 2, 2, 1]


def test_memory_of_the_failed_batch_is_free_before_the_cache_is_emptied(monkeypatch):
    class Hog(Recorder):
        def forward(self, planes):
            working = torch.zeros(1000)
            self.last = weakref.ref(working)
            return super().forward(planes) + working.sum()

    module = Hog(4)
    held = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(module.last() is not None))
    DeviceRunner(module, plan(8))(numbered(8))
    assert held == [False]


def test_one_plane_too_many_is_an_error():
    runner = DeviceRunner(Recorder(0), plan(4))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        runner(numbered(3))


def test_other_errors_are_not_retried():
    class Broken(Recorder):
        def forward(self, planes):
            super().forward(planes)
            raise RuntimeError("no kernel")

    module = Broken()
    with pytest.raises(RuntimeError, match="no kernel"):
        DeviceRunner(module, plan(4))(numbered(3))
    assert module.seen == [3]


@pytest.mark.parametrize(("count", "batches"), [(7, 2), (8, 2), (1, 1), (4, 1)])
def test_a_compiled_encoder_sees_one_batch_size(eager, count, batches):
    module = Recorder()
    vectors = DeviceRunner(module, plan(4, compile=True))(numbered(count))
    assert len(eager) == 1
    assert module.seen == [4] * batches
    assert torch.equal(vectors[:, 0], torch.arange(count, dtype=torch.float32))


def test_a_compiled_encoder_keeps_one_batch_size_after_halving(eager):
    module = Recorder(5)
    vectors = DeviceRunner(module, plan(8, compile=True))(numbered(10))
    assert module.seen == [8, 4, 4, 4]
    assert torch.equal(vectors[:, 0], torch.arange(10, dtype=torch.float32))


def test_nothing_is_compiled_unless_asked(eager):
    DeviceRunner(Recorder(), plan(4))(numbered(2))
    assert eager == []


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_reaches_the_layers_and_vectors_stay_float32(precision, inside):
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 3)

        def forward(self, planes):
            out = self.layer(planes.flatten(1))
            self.inside = out.dtype
            return out

    module = Linear()
    vectors = DeviceRunner(module, plan(4, precision=precision))(numbered(2))
    assert module.inside == inside
    assert vectors.dtype == torch.float32


def test_threads_of_the_plan_are_set_on_a_cpu():
    DeviceRunner(Recorder(), plan(4))
    assert torch.get_num_threads() == 1


def test_planes_reach_the_network_channels_last():
    class Layout(Recorder):
        def forward(self, planes):
            assert planes.is_contiguous(memory_format=torch.channels_last)
            return super().forward(planes)

    DeviceRunner(Layout(), plan(4))(numbered(3))


# -- choices --------------------------------------------------------------------------------------------------


@pytest.fixture
def hardware(monkeypatch):
    """Pretend to be a machine with these devices."""

    def pretend(*, cuda: bool = False, mps: bool = False, fast: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: fast)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "best"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_device(hardware, cuda, mps, best):
    hardware(cuda=cuda, mps=mps)
    assert device.resolve_device("auto") == best
    assert device.available_devices()[-1] == "cpu"
    assert device.resolve_device("cpu") == "cpu"
    assert device.count_gpus() == (3 if cuda else 0)


@pytest.mark.parametrize("wanted", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused(hardware, wanted):
    hardware()
    with pytest.raises(ConfigError, match=f"'{wanted}' is not available.*available: cpu") as caught:
        device.resolve_device(wanted)
    assert "doctor" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "fast"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 ssse3\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        ("flags\t\t: fpu not_avx512_bf16_really\n", False),
        ("model name\t: avx512_bf16\nflags\t\t: fpu\n", False),
        ("Features\t: fp asimd bf16\n", False),  # arm: torch's bf16 kernels there are not relied on
        ("", False),
        (None, False),
    ],
)
def test_fast_bf16_of_a_cpu_is_read_from_its_flags(monkeypatch, tmp_path, text, fast):
    cpu_info = tmp_path / "cpuinfo"
    if text is not None:
        cpu_info.write_text(text)
    monkeypatch.setattr(device, "Path", lambda _: cpu_info)
    assert device.has_fast_bf16("cpu") is fast
    assert device.resolve_precision("cpu", "auto") == ("bf16" if fast else "fp32")


@pytest.mark.parametrize("fast", [True, False])
def test_bf16_on_a_gpu_must_be_native(hardware, fast):
    hardware(cuda=True, fast=fast)
    assert device.resolve_precision("cuda", "auto") == ("bf16" if fast else "fp32")
    assert device.resolve_precision("mps", "auto") == "fp32"


@pytest.mark.parametrize("wanted", ["bf16", "fp32"])
@pytest.mark.parametrize("where", ["cpu", "cuda", "mps"])
def test_a_precision_that_was_asked_for_is_taken(where, wanted):
    assert device.resolve_precision(where, wanted) == wanted


@pytest.mark.parametrize(
    ("where", "side", "planes"),
    [
        ("cpu", 224, 4),
        ("cpu", 112, 16),
        ("cpu", 64, 49),
        ("cpu", 448, 1),
        ("cpu", 4096, 1),
        ("mps", 224, 64),
        ("cuda", 224, 512),
        ("cuda", 448, 128),
    ],
)
def test_batches_hold_the_same_number_of_pixels(where, side, planes):
    assert device.default_batch_planes(where, side) == planes


def test_devices_are_described(hardware):
    hardware()
    rows = dict(device.describe_devices())
    assert "threads" in rows["cpu"]
    assert rows["cuda"] == "none visible"
    hardware(mps=True)
    assert dict(device.describe_devices())["mps"] == "available"

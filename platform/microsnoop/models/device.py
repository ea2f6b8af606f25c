"""Where and how the encoder runs. The only file that names cuda, mps, autocast, bf16 and compile."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from microsnoop.core.errors import ConfigError

log = logging.getLogger(__name__)

# Planes of 224 px at once. Small batches stay in a CPU's cache; a GPU wants many.
_BATCH_224 = {"cpu": 4, "mps": 64, "cuda": 512}
# Working memory of the published encoder for one 224 px plane in float32: two 32-channel maps and a copy.
PLANE_224_BYTES = 3 * 32 * 224 * 224 * 4


@dataclass(frozen=True)
class DevicePlan:
    """Resolved choices: nothing is ``auto`` any more."""

    device: str
    precision: str
    batch_planes: int
    threads: int
    compile: bool = False


def resolve_device(requested: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``; ``auto`` takes the first that is there.

    Raises
    ------
    ConfigError
        The device asked for is not available.
    """
    available = available_devices()
    if requested == "auto":
        return available[0]
    if requested not in available:
        raise ConfigError(
            f"the device {requested!r} is not available to torch here; available: {', '.join(available)}",
            hint="`microsnoop doctor` shows what torch sees",
        )
    return requested


def available_devices() -> list[str]:
    """Return the kinds of device torch can use here, best first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def count_gpus() -> int:
    """Return how many CUDA devices torch sees on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def resolve_precision(device: str, requested: str, *, allowed: bool = True) -> str:
    """Return ``bf16`` or ``fp32``; ``auto`` takes bf16 only where the hardware is fast at it.

    Parameters
    ----------
    allowed
        Whether the encoder keeps its vectors in bf16, as its card says.

    Raises
    ------
    ConfigError
        bf16 is asked for and the encoder does not keep its vectors in it.
    """
    if requested == "bf16" and not allowed:
        raise ConfigError(
            "this encoder's vectors change in bf16 (cosine below 0.999)", hint="use precision: fp32 or auto"
        )
    if requested != "auto":
        return requested
    return "bf16" if allowed and has_fast_bf16(device) else "fp32"


def has_fast_bf16(device: str) -> bool:
    """Whether bf16 is native there; emulated on other CPUs it is several times slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "mps":
        return False
    cpu_info = Path("/proc/cpuinfo")
    if not cpu_info.is_file():
        return False
    flags = next((line for line in cpu_info.read_text().splitlines() if line.startswith("flags")), "")
    return bool({"avx512_bf16", "amx_bf16"} & set(flags.split()))


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context in which matrix products on that tensor's device stay float32, also in a bf16 run."""
    return torch.autocast(tensor.device.type, enabled=False)


def default_batch_planes(device: str, input_px: int) -> int:
    """Return how many planes go through the encoder at once, for this input side."""
    return max(1, round(_BATCH_224[device] * (224 / input_px) ** 2))


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return a context in which the network computes in ``bf16`` where that is asked for."""
    if precision == "bf16":
        return torch.autocast(device, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def describe_devices() -> list[tuple[str, str]]:
    """Return (name, description) of every device, for ``microsnoop doctor``."""
    rows = [
        ("cpu", f"{torch.get_num_threads()} threads, fast bf16: {'yes' if has_fast_bf16('cpu') else 'no'}")
    ]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            rows.append((f"cuda:{i}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    else:
        rows.append(("cuda", "none visible"))
    if torch.backends.mps.is_available():
        rows.append(("mps", "available"))
    return rows


class DeviceRunner:
    """Runs an encoder by a :class:`DevicePlan`: batches, precision, memory layout, out-of-memory retries."""

    def __init__(self, module: nn.Module, plan: DevicePlan) -> None:
        if plan.device == "cpu":
            torch.set_num_threads(plan.threads)
        self.device = torch.device(plan.device)
        self.batch_planes = plan.batch_planes
        self._fixed_batch = plan.compile
        module = module.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._module = torch.compile(module) if plan.compile else module
        self._precision = plan.precision

    @torch.inference_mode()
    def __call__(self, planes: Tensor) -> Tensor:
        """Map planes (N, 1, S, S) float32 on this device to vectors (N, D) float32.

        A batch that does not fit the GPU is halved and tried again, down to one plane; the smaller batch is
        kept and logged.
        """
        parts: list[Tensor] = []
        start = 0
        while start < len(planes):
            try:
                parts.append(self._forward(planes[start : start + self.batch_planes]))
            except torch.cuda.OutOfMemoryError:
                if self.batch_planes == 1:
                    raise
            else:
                start += self.batch_planes
                continue
            # outside the handler: while it runs, its traceback keeps the failed batch in memory
            self.batch_planes //= 2
            torch.cuda.empty_cache()
            log.warning("GPU memory is full: going on with batches of %d planes", self.batch_planes)
        return torch.cat(parts)

    def _forward(self, planes: Tensor) -> Tensor:
        count = len(planes)
        if self._fixed_batch and count < self.batch_planes:
            # a compiled encoder is compiled anew for every batch size: fill the last batch up
            planes = torch.cat([planes, planes.new_zeros(self.batch_planes - count, *planes.shape[1:])])
        planes = planes.contiguous(memory_format=torch.channels_last)
        with autocast(self.device.type, self._precision):
            return self._module(planes)[:count].float()


def compiled(module: nn.Module) -> nn.Module:
    """Return the module compiled for fixed shapes; a new shape is compiled anew (a minute on a GPU)."""
    return torch.compile(module, dynamic=False)  # type: ignore[return-value]

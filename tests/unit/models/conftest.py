"""Fixtures of the model tests: the published network's golden file, and stub encoders."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def draw(name: str, shape: tuple[int, ...], random: np.random.RandomState) -> NDArray:
    """The recipe behind the golden file: one generator a tensor, the distribution follows from the name."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith(("running_mean", "bias")):
        return (0.1 * random.standard_normal(shape)).astype(np.float32)
    if name.endswith("running_var") or len(shape) < 2:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return (random.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture(scope="session")
def published_names() -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the 311 tensors of the published checkpoint."""
    lines = (line.split("\t") for line in (GOLDEN / "published_state_dict.tsv").read_text().splitlines())
    return [(name, ast.literal_eval(shape)) for name, shape in lines]


@pytest.fixture(scope="session")
def _published_tensors(published_names: list[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.asarray(draw(name, shape, np.random.RandomState(1000 + i))))
        for i, (name, shape) in enumerate(published_names)
    }


@pytest.fixture
def published_state(_published_tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with published names and deterministic values (seed 1); a dict of its own for each test."""
    return dict(_published_tensors)


@pytest.fixture(scope="session")
def golden() -> dict[str, NDArray]:
    """What the published network computes with those values, and the planes (3, 1, 96, 128) it was given."""
    with np.load(GOLDEN / "published_network_seed1.npz", allow_pickle=False) as stored:
        values = {name: stored[name] for name in stored.files}
    values["planes"] = np.random.RandomState(1).standard_normal((3, 1, 96, 128)).astype(np.float32)
    return values


@pytest.fixture(scope="session")
def relative() -> Callable[[object, NDArray], float]:
    """The largest error as a share of the largest expected value."""

    def measure(got: object, expected: NDArray) -> float:
        got = np.asarray(got, np.float64)
        assert got.shape == expected.shape
        return float(np.abs(got - expected).max() / np.abs(expected).max())

    return measure


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """A DeviceRunner sets torch's thread count for the whole process: put it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # steady beside other jobs; the networks here are small
    yield
    torch.set_num_threads(before)

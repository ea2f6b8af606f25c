"""Fixtures for all tests: sample data of the repository, data beside the checkout, read-only arrays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def examples() -> Path:
    """The sample images shipped in the repository."""
    return ROOT / "examples" / "nuclei"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The data folder beside the checkout; tests that need it are skipped, loudly, where it is not."""
    folder = Path(os.environ.get("MICROSNOOP_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"NOT TESTED: no data folder at {folder} (set MICROSNOOP_DATA)")
    return folder


@pytest.fixture
def frozen() -> Callable[[NDArray], NDArray]:
    """Make an array read-only: operations must never change their input."""

    def freeze(array: NDArray) -> NDArray:
        array = np.array(array)
        array.flags.writeable = False
        return array

    return freeze


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

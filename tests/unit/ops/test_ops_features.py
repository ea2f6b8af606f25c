"""Hand-crafted features: finite everywhere, invariant where they should be, each number where it is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.io.images import read_image
from microsnoop.ops.features import (
    INTENSITY_NAMES,
    PLANE_NAMES,
    channel_correlations,
    plane_features,
    sample_features,
    unique_columns,
)
from microsnoop.ops.intensity import plane_scaling

Freeze = Callable[[NDArray], NDArray]


@pytest.fixture(scope="module")
def nucleus(examples: Path) -> NDArray[np.uint16]:
    """A real nucleus, 64 × 96 px."""
    return read_image(str(examples / "images" / "U2OS_2022-10-14_s10.tif")).planes[0, 40:104, 60:156]


def measure(plane: NDArray) -> dict[str, float]:
    scaling = plane_scaling(plane[None])
    values = plane_features(plane, scaling.offset[0], scaling.span[0])
    return dict(zip(PLANE_NAMES, values.tolist(), strict=True))


def test_there_are_68_numbers_a_plane(nucleus: NDArray) -> None:
    assert len(PLANE_NAMES) == len(set(PLANE_NAMES)) == 68
    assert len(INTENSITY_NAMES) == 16
    assert len(measure(nucleus)) == 68


@pytest.mark.parametrize("value", [0, 7, 65535])
@pytest.mark.parametrize("shape", [(1, 1), (4, 5), (40, 56)])
def test_a_constant_plane_has_finite_features(value: int, shape: tuple[int, int]) -> None:
    found = measure(np.full(shape, value, np.uint16))
    assert all(np.isfinite(v) for v in found.values())
    assert found["mean"] == value
    for name in (
        "sd",
        "skewness",
        "kurtosis",
        "entropy",
        "above_otsu",
        "glcm_correlation_1px",
        "gradient_mean",
    ):
        assert found[name] == 0, name


@pytest.mark.parametrize("shape", [(1, 7), (2, 2), (3, 30), (5, 5), (200, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_planes_of_any_shape_are_finite(
    shape: tuple[int, int], dtype: type, rng: np.random.Generator
) -> None:
    assert all(np.isfinite(v) for v in measure((rng.random(shape) * 250).astype(dtype)).values())


def test_one_bright_pixel_is_finite() -> None:
    plane = np.zeros((40, 56), np.uint16)
    plane[20, 30] = 1000
    found = measure(plane)
    assert all(np.isfinite(v) for v in found.values())
    assert found["max"] == 1000


def test_known_intensities() -> None:
    plane = np.array([[0, 0, 0, 10], [10, 10, 20, 30]], np.uint16)
    found = measure(plane)
    assert found["mean"] == 10
    assert found["p50"] == 10
    assert found["mad"] == 10
    assert found["sd"] == pytest.approx(np.std([0, 0, 0, 10, 10, 10, 20, 30]))
    assert found["entropy"] == pytest.approx(-(2 * 3 / 8 * np.log2(3 / 8) + 2 / 8 * np.log2(1 / 8)))


def test_a_quarter_turn_changes_neither_intensity_nor_granularity(nucleus: NDArray) -> None:
    straight, turned = measure(nucleus), measure(np.rot90(nucleus))
    for name in (
        *INTENSITY_NAMES,
        *(n for n in PLANE_NAMES if n.startswith(("granularity", "gradient", "spectrum"))),
    ):
        assert turned[name] == pytest.approx(straight[name], rel=1e-9, abs=1e-12), name


def test_an_affine_change_of_intensity_leaves_texture(nucleus: NDArray) -> None:
    plain, changed = measure(nucleus), measure(nucleus.astype(np.float32) * 0.5 + 300)
    for name in PLANE_NAMES:
        if name.startswith("lbp"):
            assert changed[name] == plain[name], name
        elif name.startswith("glcm"):
            assert changed[name] == pytest.approx(plain[name], abs=1e-3), name
    assert changed["mean"] == pytest.approx(0.5 * plain["mean"] + 300)


def test_values_on_the_border_of_two_levels_do_not_depend_on_rounding(rng: np.random.Generator) -> None:
    plane = rng.integers(0, 33, (40, 56)).astype(
        float
    )  # scaled and cut into 32 levels, each value is a border
    plane[:2], plane[2:4] = 0, 32
    plain = measure(plane)
    for factor, shift in ((0.1, 0.3), (1 / 3, 1e3), (7e-5, 2.7)):
        changed = measure(plane * factor + shift)
        for name in (n for n in PLANE_NAMES if n.startswith(("lbp", "glcm", "granularity"))):
            assert changed[name] == pytest.approx(plain[name], abs=1e-9), name


def test_texture_tells_fine_from_coarse(rng: np.random.Generator) -> None:
    fine = rng.integers(0, 250, (64, 64)).astype(np.uint8)
    coarse = np.kron(rng.integers(0, 250, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    a, b = measure(fine), measure(coarse)
    assert a["granularity_1px"] > 5 * b["granularity_1px"]
    assert a["glcm_correlation_1px"] < 0.2 < 0.7 < b["glcm_correlation_1px"]
    assert a["spectrum_7"] > 3 * b["spectrum_7"]
    for found in (a, b):
        assert sum(found[f"lbp_{i}"] for i in range(10)) == pytest.approx(1)
        assert sum(found[f"spectrum_{i}"] for i in range(8)) == pytest.approx(1)
        assert 0 <= sum(found[f"granularity_{r}px"] for r in range(1, 9)) <= 1


def test_channels_correlate_as_numpy_says(rng: np.random.Generator, frozen: Freeze) -> None:
    planes = frozen(rng.integers(0, 999, (4, 30, 40)).astype(np.uint16))
    np.testing.assert_allclose(channel_correlations(planes), np.corrcoef(planes.reshape(4, -1)), atol=1e-9)
    flat = np.concatenate([planes[:2], np.full((1, 30, 40), 5, np.uint16)])
    found = channel_correlations(flat)
    assert found[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_each_number_stands_once_after_fusion(
    channels: int, rng: np.random.Generator, frozen: Freeze
) -> None:
    planes = frozen(rng.integers(0, 999, (channels, 24, 32)).astype(np.uint16))
    scaling = plane_scaling(planes)
    found = sample_features(planes, scaling.offset, scaling.span)
    assert found.shape == (channels, 68 + channels - 1)
    assert found.dtype == np.float32
    kept = found.reshape(-1)[unique_columns(channels)]
    assert len(kept) == 68 * channels + channels * (channels - 1) // 2
    own = np.concatenate(
        [plane_features(p, o, s) for p, o, s in zip(planes, scaling.offset, scaling.span, strict=True)]
    )
    pairs = np.corrcoef(planes.reshape(channels, -1)) if channels > 1 else np.ones((1, 1))
    expected = [*own, *(pairs[a, b] for a in range(channels) for b in range(a + 1, channels))]
    np.testing.assert_allclose(np.sort(kept), np.sort(expected), rtol=1e-5)

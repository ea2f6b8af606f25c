"""The pixel size from the pitch of the array: exact on exact grids, whatever way the array is turned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop_integrations.spatial_grid import fit_grid, pixel_size_from_grid

Freeze = Callable[[NDArray], NDArray]


def grid(columns: int = 5, rows: int = 3) -> NDArray:
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2).astype(float)


@pytest.mark.parametrize("degrees", [0, 7, 90, 200])
@pytest.mark.parametrize("mirror", [1, -1])
def test_an_exact_grid_gives_the_exact_size_however_it_is_turned(
    degrees: float, mirror: int, frozen: Freeze
) -> None:
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * [1, mirror]
    centres = frozen(grid() @ turn * 290.0 + [1234.5, -60.0])
    assert pixel_size_from_grid(centres, frozen(grid())) == pytest.approx(200 / 290, rel=1e-9)
    assert pixel_size_from_grid(centres, grid(), pitch_um=100) == pytest.approx(100 / 290, rel=1e-9)


def test_unequal_axes_share_their_difference() -> None:
    centres = grid() * [200.0, 204.0]
    assert pixel_size_from_grid(centres, grid()) == pytest.approx(200 / np.sqrt(200 * 204))
    fit = fit_grid(centres, grid())
    assert fit.pitches_px == pytest.approx((200, 204))
    assert fit.residual_px == pytest.approx(0, abs=1e-9)


def test_scatter_is_measured_and_missing_places_left_out(rng: np.random.Generator) -> None:
    steps = grid(40, 30)
    noise = rng.normal(0, 8, steps.shape)
    centres = steps * 100 + noise
    fit = fit_grid(centres, steps)
    assert fit.residual_px == pytest.approx(8 * np.sqrt(2), rel=0.05)
    holes = np.vstack([centres, [[np.nan, 3]]])
    assert fit_grid(holes, np.vstack([steps, [[0, 0]]])).axes_px == pytest.approx(fit.axes_px)


@pytest.mark.parametrize("factors", [[100.0, 90.0], [100.0, 0.0]])
def test_a_grid_that_is_not_square_is_refused(factors: list[float]) -> None:
    with pytest.raises(InputError, match=r"square grid|one line"):
        pixel_size_from_grid(grid() * factors, grid())


def test_a_sheared_grid_is_refused() -> None:
    with pytest.raises(InputError, match="cosine"):
        pixel_size_from_grid(grid() @ np.array([[100.0, 0], [20.0, 98.0]]), grid())


def test_spots_on_a_line_do_not_show_a_pitch() -> None:
    with pytest.raises(InputError, match="4 spots on one line"):
        pixel_size_from_grid(grid(4, 1) * 50, grid(4, 1))


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        fit_grid(grid(), grid()[:-1])
    with pytest.raises(ValueError, match="pitch_um"):
        pixel_size_from_grid(grid(), grid(), pitch_um=0)

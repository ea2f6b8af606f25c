"""The microscope: each effect alone against what it must be, all together against the order, nothing at strength 0."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from microsnoop.ops.acquisition import (
    PARAMETERS,
    Effects,
    acquire,
    add_noise,
    blur,
    draw_deviation,
    find_effects,
    illumination,
    quantise,
    sum_deviations,
)

PROPERTY = settings(deadline=None, derandomize=True, max_examples=40)
Freeze = Callable[[NDArray], NDArray]
SPREAD = dict.fromkeys(PARAMETERS, 0.1) | {"offset": 5.0, "blur_px": 0.5}


def effects(**given_: float | list[float]) -> Effects:
    names = {"gain": 1.0, "offset": 0.0, "tilt_y": 0.0, "tilt_x": 0.0, "vignette": 0.0, "blur_px": 0.0}
    values = names | {"read_sd": 0.0, "shot": 0.0} | given_
    return Effects(**{name: np.broadcast_to(np.array(v, float), (2,)) for name, v in values.items()})


@pytest.fixture
def field(rng: np.random.Generator, frozen: Freeze) -> NDArray:
    return frozen(rng.integers(20, 2000, size=(2, 48, 64)))


# ---------------------------------------------------------------- one effect at a time


def test_gain_and_offset_are_exact(field: NDArray) -> None:
    found = acquire(field, effects(gain=[2.0, 0.5], offset=[3.0, 100.0]), np.random.default_rng(0))
    assert found.planes.dtype == np.uint16
    assert np.array_equal(found.planes[0], field[0] * 2 + 3)
    assert np.array_equal(found.planes[1], np.rint(field[1] * 0.5 + 100))
    assert found.saturated.tolist() == [0, 0]


def test_offset_is_not_amplified_and_zero_is_the_bottom() -> None:
    dark = np.full((2, 4, 4), 10)
    found = acquire(dark, effects(gain=3.0, offset=[-25.0, -40.0]), np.random.default_rng(0))
    assert (found.planes[0] == 5).all()
    assert (found.planes[1] == 0).all()


@PROPERTY
@given(
    st.integers(1, 40), st.integers(1, 40), st.floats(-1, 1), st.floats(-1, 1), st.floats(-0.5, 1)
)  # fmt: skip
def test_light_has_mean_1_and_is_positive(h: int, w: int, tilt_y: float, tilt_x: float, fall: float) -> None:
    light = illumination(h, w, tilt_y=tilt_y, tilt_x=tilt_x, vignette=fall)
    assert light.shape == (h, w)
    assert light.mean() == pytest.approx(1, abs=1e-12)
    assert light.min() > 0


def test_light_falls_where_it_should() -> None:
    assert np.array_equal(illumination(5, 7), np.ones((5, 7)))
    down, right = illumination(5, 7, tilt_y=0.2), illumination(5, 7, tilt_x=0.2)
    # from one border to the other the log changes by twice the tilt
    assert np.log(down[-1] / down[0]) == pytest.approx(np.full(7, 0.4))
    assert np.ptp(down, axis=1).max() < 1e-12
    assert np.log(right[:, -1] / right[:, 0]) == pytest.approx(np.full(5, 0.4))
    round_ = illumination(5, 7, vignette=0.3)
    assert np.log(round_[2, 3] / round_[[0, 0, 4, 4], [0, 6, 0, 6]]) == pytest.approx(np.full(4, 0.3))
    assert np.log(round_[2, 3] / round_[2, 0]) == pytest.approx(0.15)


def test_blur_keeps_the_mean_and_has_its_width(field: NDArray) -> None:
    out = blur(field, np.array([0.8, 3.0]))
    assert out.mean(axis=(1, 2)) == pytest.approx(field.mean(axis=(1, 2)), rel=1e-12)
    assert (out.std(axis=(1, 2)) < field.std(axis=(1, 2)) * [0.5, 0.15]).all()
    point = np.zeros((2, 61, 61))
    point[:, 30, 30] = 1
    spread = blur(point, np.array([2.0, 0.0]))
    y, x = np.mgrid[-30:31, -30:31]
    assert (spread[0] * y**2).sum() ** 0.5 == pytest.approx(2.0, rel=0.01)
    assert (spread[0] * x**2).sum() ** 0.5 == pytest.approx(2.0, rel=0.01)
    assert np.array_equal(spread[1], point[1])


@pytest.mark.parametrize("signal", [0.0, 100.0, 1000.0])
def test_noise_has_the_variance_of_its_model(signal: float) -> None:
    planes = np.full((2, 300, 300), signal)
    out = add_noise(planes, np.random.default_rng(1), read_sd=np.array([3.0, 0.0]), shot=np.array([0.5, 2.0]))
    expected = np.array([9 + 0.5 * signal, 2 * signal])
    assert (out - planes).var(axis=(1, 2)) == pytest.approx(expected, rel=0.02)
    assert np.abs((out - planes).mean(axis=(1, 2))) == pytest.approx([0, 0], abs=0.5)
    assert abs(np.corrcoef((out[0, :, 1:] - signal).ravel(), (out[0, :, :-1] - signal).ravel())[0, 1]) < 0.02


def test_negative_signal_has_no_photon_noise() -> None:
    planes = np.full((1, 3, 3), -50.0)
    out = add_noise(planes, np.random.default_rng(0), read_sd=np.zeros(1), shot=np.ones(1))
    assert np.array_equal(out, planes)


def test_clipping_is_counted() -> None:
    planes = np.array([[[-3.0, 0.4, 0.6, 99.4, 99.6, 100.4, 100.6, 5000.0]], [[1.0] * 8]])
    found = quantise(planes, white_level=100)
    assert found.planes.tolist() == [[[0, 0, 1, 99, 100, 100, 100, 100]], [[1] * 8]]
    assert found.saturated.tolist() == [2, 0]
    bright = quantise(np.array([[[65_535.0, 65_535.6, 1e9]]]))
    assert bright.planes.tolist() == [[[65_535] * 3]]
    assert bright.saturated.tolist() == [2]


def test_the_order_of_the_effects(field: NDArray) -> None:
    """Light passes the optics first, is shaded and amplified, gets its noise; the offset comes last."""
    e = effects(
        gain=[1.5, 0.8], offset=[7.0, 20.0], tilt_y=0.3, tilt_x=-0.2, vignette=0.4, blur_px=[1.2, 0.6],
        read_sd=[4.0, 2.0], shot=[0.3, 0.1],
    )  # fmt: skip
    found = acquire(field, e, np.random.default_rng(5), white_level=1500)
    v, u = np.linspace(-1, 1, 48)[:, None], np.linspace(-1, 1, 64)[None]
    light = np.exp(0.3 * v - 0.2 * u - 0.4 * (u**2 + v**2) / 2)
    draws = np.random.default_rng(5).standard_normal(field.shape)
    for c in range(2):
        signal = blur(field, e.blur_px)[c] * light / light.mean() * e.gain[c]
        noisy = signal + np.sqrt(e.read_sd[c] ** 2 + e.shot[c] * signal) * draws[c] + e.offset[c]
        assert np.array_equal(found.planes[c], np.clip(np.rint(noisy), 0, 1500))
        assert found.saturated[c] == (np.rint(noisy) > 1500).sum()
    assert found.saturated[0] > 0


# ---------------------------------------------------------------- levels and strength


def test_strength_0_is_the_clean_field(field: NDArray) -> None:
    deviation = draw_deviation(SPREAD, np.random.default_rng(0), n_channels=2)
    off = find_effects(deviation, strength=0, vignette=0.3, read_sd=5, shot=1)
    found = acquire(field, off, np.random.default_rng(1))
    assert np.array_equal(found.planes, field)
    assert found.saturated.tolist() == [0, 0]


def test_strength_scales_every_effect() -> None:
    deviation = draw_deviation(SPREAD, np.random.default_rng(0), n_channels=3)
    one = find_effects(deviation, vignette=0.3, read_sd=5, shot=0.2)
    two = find_effects(deviation, strength=2, vignette=0.3, read_sd=5, shot=0.2)
    assert one.gain == pytest.approx(np.exp(deviation["log_gain"]))
    assert one.blur_px == pytest.approx(np.abs(deviation["blur_px"]))
    assert one.vignette == pytest.approx(deviation["vignette"] + 0.3)
    assert one.read_sd == pytest.approx(5 * np.exp(deviation["log_noise"]))
    assert one.shot == pytest.approx(0.2 * np.exp(deviation["log_noise"]) ** 2)
    assert two.gain == pytest.approx(one.gain**2)
    for name in ("offset", "tilt_y", "tilt_x", "vignette", "blur_px"):
        assert getattr(two, name) == pytest.approx(2 * getattr(one, name)), name
    assert two.read_sd == pytest.approx(2 * 5 * np.exp(2 * deviation["log_noise"]))
    assert two.shot == pytest.approx(0.2 * (2 * np.exp(2 * deviation["log_noise"])) ** 2)


def test_draws_have_their_spread_and_do_not_disturb_one_another() -> None:
    found = draw_deviation(SPREAD, np.random.default_rng(0), n_channels=4000)
    for name in PARAMETERS:
        assert found[name].std() == pytest.approx(SPREAD[name], rel=0.05)
        assert abs(found[name].mean()) < 0.06 * SPREAD[name]
    other = draw_deviation({"blur_px": 0.5}, np.random.default_rng(0), n_channels=4000)
    assert np.array_equal(other["blur_px"], found["blur_px"])
    assert not other["log_gain"].any()
    assert abs(np.corrcoef(found["tilt_y"], found["tilt_x"])[0, 1]) < 0.06


def test_levels_add_up_and_are_not_changed() -> None:
    levels = [draw_deviation(SPREAD, np.random.default_rng(i), n_channels=2) for i in range(3)]
    for level in levels:
        for values in level.values():
            values.flags.writeable = False
    total = sum_deviations(levels)
    for name in PARAMETERS:
        assert total[name] == pytest.approx(levels[0][name] + levels[1][name] + levels[2][name])


def test_wrong_arguments_are_refused(field: NDArray) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"unknown parameter.*colour"):
        draw_deviation({"colour": 1.0}, rng, n_channels=1)
    with pytest.raises(ValueError, match="cannot be negative"):
        draw_deviation({"offset": -1.0}, rng, n_channels=1)
    with pytest.raises(ValueError, match="no deviation"):
        sum_deviations([])
    deviation = draw_deviation({}, rng, n_channels=2)
    for wrong in ({"strength": -1.0}, {"read_sd": -0.1}, {"shot": -0.1}):
        with pytest.raises(ValueError, match="cannot be negative"):
            find_effects(deviation, **wrong)
    for level in (0, 65_536):
        with pytest.raises(ValueError, match="from 1 to 65535"):
            quantise(np.zeros((1, 2, 2)), white_level=level)
    with pytest.raises(ValueError, match="finite"):
        quantise(np.full((1, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"2 channels, got shape \(1, 48, 64\)"):
        acquire(field[:1], effects(), rng)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        acquire(field[0], effects(), rng)

"""Guard rails: held-out whiteness, lost signal, batches that remain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.base import Fit, ScopedCorrector
from microsnoop.correction.guards import Whiteness, batch_remains, held_out_whiteness, signal_loss


class Shrunk(ScopedCorrector):
    """Centre on the controls' mean and multiply."""

    method = "shrunk"

    def __init__(self, factor: float = 1.0, scope: str = "global", on_small_group: str = "error") -> None:
        self.factor, self.scope, self.on_small_group = factor, scope, on_small_group

    def _fit(self, rows: NDArray[Any], group: str) -> Fit:
        return Fit({"mean": rows.mean(axis=0)})

    def _apply(self, fit: Fit, rows: NDArray[Any]) -> NDArray[Any]:
        return self.factor * (rows - fit.arrays["mean"])


@pytest.fixture
def plates() -> tuple[NDArray[np.float64], dict[str, NDArray[Any]]]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 10))
    control = np.arange(600) % 2 == 0
    x[~control] *= 100  # treatments must not matter
    x.flags.writeable = False
    return x, {"is_control": control, "plate": np.repeat([f"p{i}" for i in range(10)], 60)}


def test_independent_controls_are_white(plates) -> None:
    found = held_out_whiteness(Shrunk, *plates)
    assert found is not None
    assert found.variance == pytest.approx(1, abs=0.06)
    assert found.correlation == pytest.approx(found.floor, rel=0.15)
    assert found.findings() == []


def test_controls_of_another_size_or_correlated_ones_are_found(plates) -> None:
    x, obs = plates
    large = held_out_whiteness(lambda: Shrunk(2.0), x, obs)
    assert large is not None
    assert large.variance == pytest.approx(4, rel=0.06)
    assert [f.code for f in large.findings()] == ["not_white"]
    alike = held_out_whiteness(Shrunk, np.repeat(x[:, :1], 10, axis=1) + 0.1 * x, obs)
    assert alike is not None
    assert alike.correlation > 0.9
    assert "correlation" in alike.findings()[0].message


def test_a_shift_of_one_plate_shows_because_whole_plates_are_held_out() -> None:
    rng = np.random.default_rng(1)
    plate = np.repeat(np.arange(10), 20)
    shift = rng.normal(size=(10, 6))[plate] * 3
    x = rng.normal(size=(200, 6)) + shift
    obs = {"is_control": np.ones(200, bool), "plate": plate.astype(str)}
    whole = held_out_whiteness(Whitened, x, obs)
    loose = held_out_whiteness(Whitened, x, {"is_control": obs["is_control"]})
    assert whole is not None
    assert loose is not None
    assert whole.correlation > 1.5 * loose.correlation


class Whitened(Shrunk):
    """Divide by the controls' standard deviation."""

    def _fit(self, rows: NDArray[Any], group: str) -> Fit:
        return Fit({"mean": rows.mean(axis=0), "sd": rows.std(axis=0, ddof=1)})

    def _apply(self, fit: Fit, rows: NDArray[Any]) -> NDArray[Any]:
        return (rows - fit.arrays["mean"]) / fit.arrays["sd"]


def test_nothing_is_held_out_from_a_fit_by_plate(plates) -> None:
    assert held_out_whiteness(lambda: Shrunk(scope="plate"), *plates) is None


def test_too_few_rows_say_nothing_and_other_errors_pass(plates) -> None:
    x, obs = plates
    few = {name: values[:4] for name, values in obs.items()}
    assert held_out_whiteness(Shrunk, x[:4], few) is None
    with pytest.raises(CorrectionError, match="scope must be one of"):
        held_out_whiteness(lambda: Shrunk(scope="moon"), x, obs)


def test_whiteness_bounds() -> None:
    assert Whiteness(0.49, 0.0, 0.1).findings()
    assert Whiteness(2.01, 0.0, 0.1).findings()
    assert not Whiteness(0.51, 0.2, 0.1).findings()
    assert Whiteness(1.0, 0.21, 0.1).findings()
    assert not Whiteness(1.0, 0.28, 0.2).findings()  # so few rows are correlated by chance


def test_signal_loss_and_batches_that_remain() -> None:
    assert signal_loss("replicates", 0.50, 0.46) == []
    assert signal_loss("replicates", 0.50, 0.44)[0].strong
    assert signal_loss("replicates", float("nan"), 0.44) == []
    assert batch_remains(0.5, 0.49, 0.1) == []
    assert batch_remains(0.5, 0.5, 0.1)[0].code == "batch_remains"
    assert batch_remains(0.1, 0.1, 0.1) == []

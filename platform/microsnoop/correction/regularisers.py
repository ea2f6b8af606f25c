"""How sphering lifts small eigenvalues before it divides by them, and what is to be said of it afterwards.

Source: batch spec, section 4. What is chosen on held-out rows is in ``heldout``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError
from microsnoop.correction.heldout import RIDGES
from microsnoop.correction.rows import named
from microsnoop.ops.knee import find_knee
from microsnoop.ops.shrinkage import ledoit_wolf
from microsnoop.ops.sphering import Spectrum

Lifted = tuple[NDArray[np.float64], dict[str, Any]]  # f(T) (d,), and facts that JSON can hold

_SINGULAR = 1e-10  # of the largest eigenvalue: what is not above it is zero but for rounding


def lift_by_knee(
    spectrum: Spectrum,
    rows: NDArray[Any],
    *,
    divisor: float = 10.0,
    sensitivity: float = 1.0,
    on_no_knee: str = "shrinkage",
    correlation: bool = True,
    where: str = "",
) -> Lifted:
    """Return ``max(T, T_knee / divisor)``; without a knee, shrinkage.

    Raises
    ------
    CorrectionError
        ``no_knee``, with ``on_no_knee="error"``.
    """
    values = spectrum.eigenvalues
    index = find_knee(values, sensitivity=sensitivity)
    # with few controls the curve may bend where it reaches zero: a floor of zero is none
    if index is not None and values[index] > _SINGULAR * values[0]:
        lam = float(values[index]) / divisor
        return np.maximum(values, lam), {"lambda": lam, "knee_index": index}
    why = "have no knee" if index is None else f"bend only where they are zero, at index {index}"
    if on_no_knee == "error":
        found = f"{where}: the {len(values)} eigenvalues of {spectrum.n} control rows {why}"
        raise CorrectionError("no_knee", found, hint="choose another `reg`, or `on_no_knee: shrinkage`")
    filtered, info = lift_by_shrinkage(spectrum, rows, correlation=correlation)
    return filtered, {**info, "reg": "shrinkage", "knee_index": None, "no_knee": why}


def lift_by_shrinkage(
    spectrum: Spectrum, rows: NDArray[Any], *, share: float | None = None, correlation: bool = True
) -> Lifted:
    """Return ``(1 - a) T + a · mean(T)``; a is Ledoit and Wolf's, from the control rows, unless stated."""
    values = spectrum.eigenvalues
    a = ledoit_wolf(rows, spectrum, correlation=correlation) if share is None else float(share)
    info: dict[str, Any] = {"a": a}
    if max(a * spectrum.level, values[-1]) <= _SINGULAR * values[0]:
        # two rows always agree perfectly, and the estimate is that nothing need be shrunk: zeros would stay zeros
        info = {"a": 1.0, "a_estimated": a}
    return (1 - info["a"]) * values + info["a"] * spectrum.level, info


def lift_nothing(spectrum: Spectrum, *, where: str = "") -> Lifted:
    """Return T as it is.

    Raises
    ------
    CorrectionError
        ``underpowered``: fewer rows than features + 1, or a smallest eigenvalue of zero.
    """
    values, d = spectrum.eigenvalues, len(spectrum.mean)
    if spectrum.n > d and values[-1] > _SINGULAR * values[0]:
        return values.copy(), {}
    found = f"{spectrum.n} control rows of {d} features, `reg: none` needs {d + 1}"
    if spectrum.n > d:
        found = (
            f"features depend on each other, the smallest eigenvalue is {values[-1]:.2g}, above 0 is needed"
        )
    hint = "choose a `reg` that lifts small eigenvalues: shrinkage, heldout or knee"
    raise CorrectionError("underpowered", f"{where}: {found}", hint=hint)


# ---------------------------------------------------------------- what is said of a fit, from its facts


def _say_underpowered(info: dict[str, Any], *, strong: bool) -> str:
    n, d = info["n"], info["d"]
    if strong and n <= d:
        return f"{n} control rows of {d} features: at least {d + 1} are needed, {2 * d} are good"
    if not strong and d < n < 2 * d:
        return f"{n} control rows of {d} features: {2 * d} are needed for eigenvalues that can be trusted"
    return ""


def _say_constant(info: dict[str, Any]) -> str:
    names = info["constant"]
    return f"{len(names)} features do not vary in controls and became 0: {named(names)}" if names else ""


def _say_no_knee(info: dict[str, Any]) -> str:
    if "no_knee" not in info:
        return ""
    return f"the eigenvalues {info['no_knee']}: shrinkage with a = {info['a']:.3g} instead"


def _say_edge(info: dict[str, Any]) -> str:
    if not info.get("heldout_edge"):
        return ""
    return f"the best ridge {info['lambda']:.3g} is at the end of what was tried, {RIDGES[0]:.3g} to {RIDGES[-1]:.3g}"


# code, strong, what to say of a fit ("" for nothing); said once for all groups, with the words of the first
FINDINGS: tuple[tuple[str, bool, Callable[[dict[str, Any]], str]], ...] = (
    ("no_knee", False, _say_no_knee),
    ("constant_in_controls", False, _say_constant),
    ("underpowered", True, lambda info: _say_underpowered(info, strong=True)),
    ("underpowered", False, lambda info: _say_underpowered(info, strong=False)),
    ("heldout_edge", False, _say_edge),
)

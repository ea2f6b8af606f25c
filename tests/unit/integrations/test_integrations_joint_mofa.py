"""The MOFA adapter on factors that were put in, its housekeeping, and what it refuses."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import JointError, MissingDependency
from microsnoop_integrations.joint.mofa import mofa
from microsnoop_integrations.joint.representation import Representation

Freeze = Callable[[NDArray], NDArray]
needs_mofa = pytest.mark.skipif(find_spec("mofapy2") is None, reason="extra multimodal is not installed")


def planted(seed: int = 0, *, unit: float = 0.01) -> tuple[NDArray, NDArray, NDArray]:
    """Three factors: of both views, of the transcripts alone, of the image alone; in units far from 1."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(150, 3))
    x = np.outer(z[:, 0], rng.normal(size=40)) + 0.7 * np.outer(z[:, 1], rng.normal(size=40))
    y = 0.8 * np.outer(z[:, 0], rng.normal(size=30)) + np.outer(z[:, 2], rng.normal(size=30))
    x, y = x + 0.5 * rng.normal(size=x.shape), y + 0.5 * rng.normal(size=y.shape)
    return 5 + x * unit, y * unit, z


@needs_mofa
def test_finds_planted_factors_and_drops_noise(
    frozen: Freeze, tmp_path: Path, capfd: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    x, y, z = planted()
    x[:, 7] = 1.0
    state, filters = str(np.random.get_state()), list(warnings.filters)
    found = mofa(frozen(x), frozen(y), k=10, seed=1)
    assert found.latent.shape == (150, 3)
    assert found.latent.dtype == np.float32
    agreement = np.abs(np.corrcoef(z.T, found.latent.T)[:3, 3:])
    order = agreement.argmax(axis=1)
    assert sorted(order) == [0, 1, 2]
    assert agreement.max(axis=1).min() > 0.95
    rna, image = (
        np.array(found.info["explained"]["rna"])[order],
        np.array(found.info["explained"]["image"])[order],
    )
    assert (rna[:2] > 0.1).all()
    assert (image[[0, 2]] > 0.1).all()
    assert rna[2] < 0.01
    assert image[1] < 0.01
    assert any("7 of 10 factors explain less than 1%" in note for note in found.notes)
    assert any("1 features of the rna matrix" in note for note in found.notes)
    assert (found.name, found.info["factors_started"], found.info["converged"]) == ("MOFA", 10, True)
    assert found.labels.shape == (150,)
    json.dumps(dict(found.info))
    # nothing printed, written, drawn from the global generator, or silenced for others
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert str(np.random.get_state()) == state
    assert list(warnings.filters) == filters


@needs_mofa
def test_seeds_reproduce_sparse_equals_dense_units_do_not_matter() -> None:
    x, y, _ = planted()
    x = np.maximum(x - 5, 0)
    one, sparse_one = mofa(x, y, k=10, factors=4), mofa(sparse.csr_matrix(x), y, k=10, factors=4)
    np.testing.assert_array_equal(one.latent, sparse_one.latent)
    other_unit = mofa(x * 1e3, y, k=10, factors=4)
    np.testing.assert_allclose(other_unit.latent, one.latent, atol=1e-3)


@needs_mofa
def test_explained_variance_is_that_of_the_rank_one_products(monkeypatch: pytest.MonkeyPatch) -> None:
    import mofapy2.run.entry_point as package

    kept: list[Any] = []
    original = package.entry_point.run

    def run(self: Any) -> None:
        original(self)
        kept.append(self)

    monkeypatch.setattr(package.entry_point, "run", run)
    x, y, _ = planted(3)
    found = mofa(x, y, k=10, factors=3)
    model = kept[0].model
    for at, name in enumerate(("rna", "image")):
        scores, weights = model.nodes["Z"].getExpectation(), model.nodes["W"].getExpectation()[at]
        view = kept[0].data[at]
        expected = [
            1 - ((view - np.outer(scores[:, f], weights[:, f])) ** 2).sum() / (view**2).sum()
            for f in range(3)
        ]
        np.testing.assert_allclose(found.info["explained"][name], expected, atol=1e-9)


@needs_mofa
def test_constant_features_have_no_influence() -> None:
    x, y, _ = planted()
    more = np.hstack([np.full((150, 25), 0.1), x])
    base, found = mofa(x, y, k=10, factors=3), mofa(more, y, k=10, factors=3)
    np.testing.assert_array_equal(found.latent, base.latent)
    assert found.notes == ("25 features of the rna matrix are the same in every cell: left out",)


@needs_mofa
def test_not_converged_is_said() -> None:
    x, y, _ = planted()
    found = mofa(x, y, k=10, max_iterations=5)
    assert found.info["converged"] is False
    assert any("not converged after 5 iterations" in note for note in found.notes)


@needs_mofa
def test_noise_has_no_factor(rng: np.random.Generator) -> None:
    with pytest.raises(JointError, match="none of 10 factors") as caught:
        mofa(rng.normal(size=(300, 150)), rng.normal(size=(300, 150)), k=10)
    assert caught.value.code == "no_factor"


@needs_mofa
def test_factors_are_capped(rng: np.random.Generator) -> None:
    x, y, _ = planted()
    found: Representation = mofa(x[:, :4], y, k=10)
    assert found.info["factors_started"] == 4


def fake(monkeypatch: pytest.MonkeyPatch, **acts: Callable[..., None]) -> None:
    """Put a package in place of MOFA that does nothing, but for ``acts``."""

    class Entry:
        def __init__(self) -> None:
            self.model = SimpleNamespace(trained=False)

        def __getattr__(self, name: str) -> Callable[..., None]:
            return acts.get(name, lambda *args, **options: None)

    monkeypatch.setitem(sys.modules, "mofapy2", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "mofapy2.run", SimpleNamespace(__path__=[]))
    monkeypatch.setitem(sys.modules, "mofapy2.run.entry_point", SimpleNamespace(entry_point=Entry))


def test_giving_up_is_an_error_and_an_interrupt_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        sys.stdout.write("all factors shut down")
        raise SystemExit

    x, y, _ = planted()
    fake(monkeypatch, run=leave)
    with pytest.raises(JointError, match="all factors shut down") as caught:
        mofa(x, y)
    assert caught.value.code == "mofa_failed"
    fake(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        mofa(x, y)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == "mofapy2"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mofapy2", None)
    x, y, _ = planted()
    with pytest.raises(MissingDependency) as caught:
        mofa(x, y)
    assert "microsnoop-platform[multimodal]" in caught.value.hint


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    x, y, _ = planted()
    broken = x.copy()
    broken[2, 3] = np.nan
    for given, code in ((broken, "not_finite"), (np.ones_like(x), "no_variance")):
        with pytest.raises(JointError, match="rna") as caught:
            mofa(given, y)
        assert caught.value.code == code
    with pytest.raises(JointError, match="image"):
        mofa(x, np.zeros_like(y))
    with pytest.raises(ValueError, match="same cells"):
        mofa(x, y[:-1])
    with pytest.raises(ValueError, match="matrix"):
        mofa(x[:, 0], y)
    for options in ({"factors": 0}, {"max_iterations": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            mofa(x, y, **options)
    with pytest.raises(JointError) as few:
        mofa(x[:20], y[:20], k=30)
    assert few.value.code == "too_few_cells"

"""Saved corrections: bit-equal after loading, one and chained; and every file that must not be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from microsnoop.core.errors import CorrectionError, InputError
from microsnoop.correction.base import EVERYTHING, Corrector
from microsnoop.correction.chain import Chain
from microsnoop.correction.components import PrincipalComponents
from microsnoop.correction.files import load, registry, save
from microsnoop.correction.harmony import Harmony
from microsnoop.correction.sphering import Sphering
from microsnoop.correction.standardize import MadRobustize, SignedLog, Standardize
from microsnoop.correction.typical import TypicalVariation


@pytest.fixture
def rows(rng: np.random.Generator) -> NDArray:
    rows = (rng.normal(size=(240, 9)) @ rng.normal(size=(9, 9)) + 7).astype(np.float32)
    rows.flags.writeable = False
    return rows


@pytest.fixture
def obs() -> dict[str, Any]:
    number = np.arange(240)
    return {
        "is_control": number % 2 == 0,
        "plate": np.char.add("plate/", (number // 60).astype(str)),
        "batch": np.where(number < 120, "week 1", "wöche 2"),
        "treatment": np.where(number % 2 == 0, "DMSO", np.char.add("t", (number % 5).astype(str))),
        "obs_id": np.char.add("r", number.astype(str)),
    }


def corrections() -> dict[str, Corrector]:
    return {
        "sphering": Sphering(),
        "sphering, heldout, PCA": Sphering(reg="heldout", variant="PCA-cor", seed=3),
        "sphering, grid": Sphering(reg="grid"),
        "sphering, plate": Sphering(scope="plate", reg="shrinkage"),
        "sphering, fast": Sphering(precision="float32", variance_floor=1e-3),
        "standardize": Standardize(),
        "mad": MadRobustize(scope="batch"),
        "log": SignedLog(),
        "components": PrincipalComponents(n_components=4),
        "tvn": TypicalVariation(),
        "chain": Chain([MadRobustize(), PrincipalComponents(n_components=5), Sphering(reg="ridge")]),
        "chain of chains": Chain(
            [Chain([SignedLog(), MadRobustize()]), Chain([Sphering(scope="plate", reg="ridge")])]
        ),
    }


@pytest.mark.parametrize("name", corrections())
def test_loaded_is_bit_equal(name: str, rows: NDArray, obs: dict[str, Any], tmp_path: Path) -> None:
    names = [f"ch:{j}" for j in range(9)]
    fitted = corrections()[name].fit(rows, obs, features=names)
    files = save(fitted, tmp_path / "deep" / "model.v1")
    assert [file.name for file in files] == ["model.v1.safetensors", "model.v1.json"]
    assert sorted(files) == sorted((tmp_path / "deep").iterdir())
    found = load(tmp_path / "deep" / "model.v1")
    assert type(found) is type(fitted)
    for x in (rows, rows.astype(np.float64) * 3 + 1, rows[:1]):
        part = {column: values[: len(x)] for column, values in obs.items()}
        before, after = fitted.transform(x, part), found.transform(x, part)
        assert before.dtype == after.dtype
        assert before.tobytes() == after.tobytes()
    same(found, fitted)
    # and what was loaded is saved the same
    again = save(found, tmp_path / "again")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in files]
    with pytest.raises(CorrectionError, match="features"):
        found.transform(rows[:, :8], obs)


def same(found: Corrector, fitted: Corrector) -> None:
    for name in ("features_in_", "features_out_", "n_control_", "control_hash_", "findings_"):
        assert getattr(found, name) == getattr(fitted, name)
    assert list(found.fits_) == list(fitted.fits_)
    for group, fit in fitted.fits_.items():
        assert json.loads(json.dumps(found.fits_[group].info)) == json.loads(json.dumps(fit.info))
        assert {name: (a.dtype, a.shape) for name, a in found.fits_[group].arrays.items()} == {
            name: (a.dtype, a.shape) for name, a in fit.arrays.items()
        }
    parameters = fitted.get_params(deep=False)
    steps = parameters.pop("steps", [])
    assert {k: v for k, v in found.get_params(deep=False).items() if k != "steps"} == parameters
    for a, b in zip(found.get_params(deep=False).get("steps", []), steps, strict=True):
        same(a, b)


def test_either_file_and_no_ending_name_the_same(rows: NDArray, tmp_path: Path) -> None:
    files = save(Sphering().fit(rows), str(tmp_path / "s.json"))
    assert {file.name for file in files} == {"s.safetensors", "s.json"}
    for path in (*files, tmp_path / "s", str(tmp_path / "s")):
        assert load(path).n_control_ == 240


def test_what_the_json_says(rows: NDArray, obs: dict[str, Any], tmp_path: Path) -> None:
    fitted = Sphering(scope="plate", reg="ridge", lam=0.5).fit(rows, obs)
    arrays, text = save(fitted, tmp_path / "s")
    about = json.loads(text.read_text())
    assert (about["method"], about["class"], about["format"]) == ("sphering", "Sphering", 1)
    assert about["parameters"] == fitted.get_params()
    assert about["n_control"] == 120
    assert about["control_hash"] == fitted.control_hash_
    assert len(about["control_hash"]) == 64
    assert about["features_in"] == [f"x{j}" for j in range(9)]
    assert [fit["group"] for fit in about["fits"]] == [f"plate/{p}" for p in range(4)]
    assert about["fits"][0]["info"]["lambda"] == 0.5
    assert {"python", "numpy", "microsnoop-platform"} <= set(about["versions"])
    tensors = safetensors.numpy.load_file(arrays)
    assert {name.split("/")[0] for name in tensors} == {"0", "1", "2", "3"}
    assert np.array_equal(tensors["2/mean"], fitted.fits_["plate/2"].arrays["mean"])


def test_steps_of_a_chain_have_their_own_place(rows: NDArray, obs: dict[str, Any], tmp_path: Path) -> None:
    chain = Chain([Standardize(scope="global"), Sphering(reg="ridge")]).fit(rows, obs)
    arrays, text = save(chain, tmp_path / "c")
    assert {name[:4] for name in safetensors.numpy.load_file(arrays)} >= {"0/0/", "1/0/"}
    assert [step["class"] for step in json.loads(text.read_text())["steps"]] == ["Standardize", "Sphering"]


def test_memory_order_is_kept(rows: NDArray, tmp_path: Path) -> None:
    """The last digit of a product depends on it."""
    fitted = Sphering().fit(rows)
    arrays = fitted.fits_[EVERYTHING].arrays
    arrays["matrix"] = np.asfortranarray(arrays["matrix"])
    arrays["strided"] = np.arange(20.0).reshape(4, 5)[::2, ::2]
    arrays["number"] = np.array(3.5)
    arrays["flags"] = np.array([True, False])
    save(fitted, tmp_path / "s")
    found = load(tmp_path / "s").fits_[EVERYTHING].arrays
    assert found["matrix"].flags.f_contiguous
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
    assert not arrays["matrix"].flags.c_contiguous  # what was saved is as it was


def test_a_transductive_correction_is_a_record(rows: NDArray, obs: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("harmonypy")
    fitted = Harmony(n_pcs=3)
    fitted.fit_transform(rows, obs)
    save(fitted, tmp_path / "h")
    found = load(tmp_path / "h")
    same(found, fitted)
    with pytest.raises(CorrectionError) as caught:
        found.transform(rows, obs)
    assert caught.value.code == "transductive"


class Foreign(Sphering):
    method: ClassVar[str] = "foreign"


def test_what_is_not_saved(rows: NDArray, tmp_path: Path) -> None:
    with pytest.raises(CorrectionError) as caught:
        save(Sphering(), tmp_path / "s")
    assert caught.value.code == "not_fitted"
    namesake = type("Sphering", (Foreign,), {})  # loaded, it would be another class
    for foreign, name in ((Foreign, "Foreign"), (namesake, "Sphering")):
        with pytest.raises(CorrectionError, match=name) as caught:
            save(foreign().fit(rows), tmp_path / "s")
        assert caught.value.code == "not_savable"
    for value in (float("nan"), object()):
        fitted = Sphering().fit(rows)
        fitted.fits_[EVERYTHING].info["odd"] = value
        with pytest.raises(CorrectionError) as caught:
            save(fitted, tmp_path / "s")
        assert caught.value.code == "not_savable"
    assert list(tmp_path.iterdir()) == []
    fitted.fits_[EVERYTHING].info["odd"] = [np.float32(0.5), np.arange(2)]
    save(fitted, tmp_path / "s")
    assert load(tmp_path / "s").fits_[EVERYTHING].info["odd"] == [0.5, [0, 1]]


def test_what_is_not_loaded(rows: NDArray, tmp_path: Path) -> None:
    arrays, text = save(Sphering().fit(rows), tmp_path / "s")
    data, about = arrays.read_bytes(), json.loads(text.read_text())

    def refused(what: str) -> None:
        with pytest.raises(InputError, match=what):
            load(tmp_path / "s")
        arrays.write_bytes(data)
        text.write_text(json.dumps(about))

    with pytest.raises(InputError, match="not there"):
        load(tmp_path / "other")
    arrays.unlink()
    refused("not there")
    arrays.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refused("not what s.json was written with")
    arrays.write_bytes(data[:50])
    refused("not what s.json was written with")
    for words, what in (
        ("{", "not JSON"),
        ("[]", "format 1"),
        ('{"format": 2}', "format 1"),
        ("\x00", "not JSON"),
    ):
        text.write_text(words)
        refused(what)
    for change in (
        {"class": "Nothing"},
        {"class": "__import__"},
        {"parameters": {"colour": 1}},
        {"features_in": None},
        {"fits": [{"group": "g", "info": {}, "arrays": {"absent": "C"}}]},
        {"findings": [["code"]]},
    ):
        text.write_text(json.dumps(about | change))
        refused("does not describe")
    without = {key: value for key, value in about.items() if key != "n_control"}
    text.write_text(json.dumps(without))
    refused("n_control")
    text.write_text(json.dumps({key: value for key, value in about.items() if key != "sha256"}))
    refused("not what s.json was written with")
    assert load(tmp_path / "s").n_control_ == 240


def test_every_correction_is_registered() -> None:
    """A class that says how it is fitted, and is not in the list, could not be saved."""
    known = registry()
    assert all(issubclass(found, Corrector) and name == found.__name__ for name, found in known.items())

    def below(parent: type) -> set[type]:
        return {parent}.union(*(below(child) for child in parent.__subclasses__()))

    ours = {c for c in below(Corrector) if c.__module__.startswith("microsnoop.")}
    assert {c.__name__ for c in ours if not c.__abstractmethods__} == set(known)

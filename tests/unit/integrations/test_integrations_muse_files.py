"""A fitted MUSE on disk: all of it comes back bit by bit, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError, InputError, JointError
from microsnoop_integrations.joint.paired import Preparation
from microsnoop_integrations.joint.pairing import pair
from microsnoop_integrations.muse import Muse, MuseParameters
from microsnoop_integrations.muse.files import load, save
from microsnoop_integrations.muse.modality import modality

pytestmark = pytest.mark.usefixtures("one_thread")

N, P, Q = 80, 12, 9
PARAMETERS = MuseParameters(
    latent=6,
    hidden=10,
    k=10,
    init_epochs=2,
    init_steps=0,
    n_epochs=3,
    n_steps=0,
    update_every=2,
    image_components=7,
    seed=3,
)


def cells(n: int = N, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    kinds = np.random.default_rng(7).normal(size=(3, P + Q))[label] + rng.normal(0, 0.3, (n, P + Q))
    x, y = np.maximum(2 * kinds[:, :P], 0), kinds[:, P:] + 3
    return (x + 0.1).astype(np.float32), y.astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> Muse:
    x, y = cells()
    model = Muse(PARAMETERS, device="cpu").fit(
        x,
        y,
        obs_ids=[f"Zelle_{i}µ" for i in range(N)],
        genes=list("ABCDEFGHIJKL"),
        features=list("abcdefghi"),
    )
    model.about_ = {"encoder": "microsnoop", "encoder_sha256": "0" * 64}
    return model


@pytest.fixture(scope="module")
def saved(fitted: Muse, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted.save(tmp_path_factory.mktemp("models") / "deep" / "model")


def copied(saved: Path, to: Path) -> Path:
    to.mkdir(exist_ok=True)
    for path in saved.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def strict(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    found: dict[str, Any] = json.loads(path.read_text("utf-8"), parse_constant=refuse)
    return found


# --- what comes back -------------------------------------------------------------------------------


def test_two_files_and_nothing_else(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["muse.json", "muse.safetensors"]
    assert (saved.parent.name, saved.name) == ("deep", "model")


def test_new_cells_are_placed_bit_by_bit_as_before(fitted: Muse, saved: Path) -> None:
    again = Muse.load(saved, device="cpu")
    for x, y in (cells(), cells(37, seed=5)):
        np.testing.assert_array_equal(again.transform(x, y), fitted.transform(x, y))
        for pair_ in ((x, None), (None, y)):
            np.testing.assert_array_equal(
                again.transform(*pair_, missing="mean"), fitted.transform(*pair_, missing="mean")
            )
    names, latent = np.arange(N) % 4, fitted.latent_[:9] + np.float32(0.1)
    for ours, theirs in zip(
        again.transfer_labels(names, latent), fitted.transfer_labels(names, latent), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_all_that_was_found_comes_back(fitted: Muse, saved: Path) -> None:
    again = load(saved, device="cpu")
    for name in ("latent_", "labels_", "hidden_x_", "hidden_y_", "hidden_means_", "weight_x_"):
        ours, theirs = getattr(again, name), getattr(fitted, name)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert ours.dtype == theirs.dtype, name
    for name in (
        "parameters", "names", "obs_ids_", "genes_", "features_", "margin_", "phases_", "updates_",
        "replicability_", "gates_", "findings_", "seconds_", "about_", "preparation_",
    ):  # fmt: skip
        assert getattr(again, name) == getattr(fitted, name), name
    assert list(again.history_) == list(fitted.history_)
    for name, values in fitted.history_.items():
        np.testing.assert_array_equal(again.history_[name], values)
    assert math.isnan(again.history_["triplet_rna"][0])
    assert len(again.label_updates_) == len(fitted.label_updates_) == 3
    for ours, theirs in zip(again.label_updates_, fitted.label_updates_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not again.network_.training
    assert all(p.requires_grad for p in again.network_.parameters())


def test_findings_come_back(fitted: Muse, tmp_path: Path) -> None:
    x, _ = cells()
    y = np.random.default_rng(0).normal(size=(N, 40)).astype(np.float32)
    model = Muse(PARAMETERS, device="cpu").fit(x, y)
    assert "weak_modality" in [finding.code for finding in model.findings_]
    assert load(model.save(tmp_path), device="cpu").findings_ == model.findings_
    assert fitted.findings_ != model.findings_


def test_a_loaded_model_is_saved_as_it_was(saved: Path, tmp_path: Path) -> None:
    again = save(load(saved, device="cpu"), tmp_path)
    for name in ("muse.json", "muse.safetensors"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


def test_loading_leaves_the_random_numbers_of_the_process_alone(saved: Path) -> None:
    torch.manual_seed(1)
    wanted = torch.rand(2)
    torch.manual_seed(1)
    load(saved, device="cpu")
    assert torch.equal(torch.rand(2), wanted)


def test_what_the_json_says(fitted: Muse, saved: Path) -> None:
    about = strict(saved / "muse.json")
    assert about["format"] == 1
    assert about["sha256"] == hashlib.sha256((saved / "muse.safetensors").read_bytes()).hexdigest()
    assert about["parameters"] == fitted.parameters.model_dump()
    assert about["parameters"]["seed"] == 3
    assert about["widths"] == [P, 7]
    assert about["names"] == ["rna", "image"]
    assert about["genes"] == list("ABCDEFGHIJKL")
    assert about["features"] == list("abcdefghi")
    assert about["obs_ids"][4] == "Zelle_4µ"
    assert about["history"]["triplet_rna"][:2] == [None, None]
    assert about["about"]["encoder"] == "microsnoop"
    assert set(about["versions"]) >= {"python", "microsnoop-platform", "torch", "numpy"}
    assert about["preparation"] is None
    tensors = safetensors.numpy.load((saved / "muse.safetensors").read_bytes())
    assert tensors["network/joint.weight"].shape == (6, 20)
    assert tensors["latent"].shape == (N, 6)
    assert tensors["reduction/axes"].shape == (Q, 7)


def test_a_model_that_is_there_is_replaced(fitted: Muse, saved: Path, tmp_path: Path) -> None:
    x, y = cells(seed=2)
    folder = copied(saved, tmp_path / "model")
    other = Muse(PARAMETERS, device="cpu").fit(x, y)
    assert other.save(folder) == folder
    np.testing.assert_array_equal(load(folder, device="cpu").latent_, other.latent_)
    assert len(list(folder.iterdir())) == 2


# --- other models ----------------------------------------------------------------------------------


def test_features_as_they_are_and_three_modalities(tmp_path: Path) -> None:
    x, y = cells()
    p = PARAMETERS.model_copy(update={"image_components": None, "lambda_super": 0.0})
    model = Muse(p, device="cpu").fit(x, y)
    again = load(model.save(tmp_path / "two"), device="cpu")
    assert again.reduction_ is None
    np.testing.assert_array_equal(again.transform(x, y), model.transform(x, y))
    assert again.label_updates_ == []
    parts = [modality("rna", x, masked=True), modality("image", y), modality("shape", y[:, :4])]
    model = Muse(p, device="cpu").fit_modalities(parts)
    again = load(model.save(tmp_path / "three"), device="cpu")
    assert again.names == ("rna", "image", "shape")
    assert again.obs_ids_ == again.genes_ == again.features_ == ()
    for ours, theirs in zip(again.parts(), model.parts(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_how_both_were_made_ready_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(3, (N, P)).astype(np.float32)
    counts[:, 0] += 1
    rna, image = ad.AnnData(counts), ad.AnnData(cells()[1].astype(np.float64))
    rna.var_names = [f"g{i}" for i in range(P)]
    paired = pair(rna, image)
    p = PARAMETERS.model_copy(update={"image_components": None})
    model = Muse(p, device="cpu").fit(paired.x, paired.y, obs_ids=paired.obs_ids, genes=paired.genes)
    model.preparation_ = paired.preparation
    again = load(model.save(tmp_path), device="cpu").preparation_
    assert isinstance(again, Preparation)
    assert again.facts() == paired.preparation.facts()
    y = np.asarray(image.X)
    np.testing.assert_array_equal(again.image.transform(y), paired.preparation.image.transform(y))
    ours, theirs = (steps.transform(rna)[0] for steps in (again.transcripts, paired.preparation.transcripts))
    np.testing.assert_array_equal(ours, theirs)


# --- what is refused -------------------------------------------------------------------------------


def test_what_cannot_be_saved(fitted: Muse, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(JointError, match="fitted before") as error:
        Muse(PARAMETERS, device="cpu").save(tmp_path / "no")
    assert error.value.code == "not_fitted"
    for name, value in (("about_", {"encoder": 3}), ("margin_", math.nan), ("gates_", {"rna": math.inf})):
        model = load(saved, device="cpu")
        setattr(model, name, value)
        with pytest.raises(JointError) as error:
            model.save(tmp_path / "no")
        assert error.value.code == "not_savable"
    assert not (tmp_path / "no").exists()


def test_files_that_are_missing(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"muse\.json is not there"):
        load(tmp_path / "nowhere")
    folder = copied(saved, tmp_path / "half")
    (folder / "muse.safetensors").unlink()
    with pytest.raises(InputError, match=r"muse\.safetensors is not there"):
        load(folder)
    with pytest.raises(InputError, match="is not there"):
        load(saved / "muse.json")


def test_arrays_that_were_changed_or_cut(saved: Path, tmp_path: Path) -> None:
    data = (saved / "muse.safetensors").read_bytes()
    for changed in (data[:-1], data[:-1] + bytes([data[-1] ^ 1]), b""):
        folder = copied(saved, tmp_path / "changed")
        (folder / "muse.safetensors").write_bytes(changed)
        with pytest.raises(InputError, match=r"is not what muse\.json was written with"):
            load(folder)


def rewritten(saved: Path, to: Path, **changes: Any) -> Path:
    folder = copied(saved, to)
    about = strict(folder / "muse.json")
    (folder / "muse.json").write_text(json.dumps({**about, **changes}), "utf-8")
    return folder


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"format": 1', "\x00"])
def test_json_that_is_damaged(saved: Path, tmp_path: Path, text: str) -> None:
    folder = copied(saved, tmp_path / "model")
    (folder / "muse.json").write_text(text)
    with pytest.raises(InputError, match=r"muse\.json is not"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": None},
        {"sha256": "0" * 64},
        {"widths": [P + 1, 7]},
        {"widths": [P]},
        {"widths": "twelve"},
        {"genes": ["A"]},
        {"obs_ids": ["a", "b"]},
        {"history": None},
        {"findings": [["code"]]},
        {"parameters": {"latent": 7}},
        {"parameters": {"no_such": 7}},
        {"reduction": {"features": ["a"], "arrays": {"mean": "C"}}},
        {"margin": None},
    ],
    ids=str,
)
def test_json_of_another_model(saved: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"muse\.(json|safetensors) (is|does) not"):
        load(rewritten(saved, tmp_path / "model", **changes), device="cpu")
    # what was written anew and not changed is read
    assert load(rewritten(saved, tmp_path / "same"), device="cpu").names == ("rna", "image")


def test_arrays_without_a_tensor_that_is_needed(saved: Path, tmp_path: Path) -> None:
    tensors = safetensors.numpy.load((saved / "muse.safetensors").read_bytes())
    for name in ("latent", "network/joint.bias", "reduction/mean"):
        data = safetensors.numpy.save({key: value for key, value in tensors.items() if key != name})
        folder = rewritten(saved, tmp_path / "model", sha256=hashlib.sha256(data).hexdigest())
        (folder / "muse.safetensors").write_bytes(data)
        with pytest.raises(InputError, match="does not describe a MUSE model"):
            load(folder, device="cpu")


def test_a_device_that_is_not_there(saved: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="'cuda' is not available"):
        load(saved, device="cuda")

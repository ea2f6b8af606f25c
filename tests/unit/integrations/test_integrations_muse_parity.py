"""MUSE against numbers of the published graph: latent, loss and its parts, gradients, five steps, odd labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.muse.losses import batch_hard_triplet, pairwise_distances
from microsnoop_integrations.muse.modality import modality
from microsnoop_integrations.muse.network import MuseNetwork
from microsnoop_integrations.muse.training import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parents[2] / "golden" / "muse_parity.npz"
Golden = dict[str, NDArray]


@pytest.fixture(scope="module")
def golden() -> Golden:
    with np.load(GOLDEN) as file:
        return dict(file)


def state(golden: Golden, prefix: str) -> dict[str, Tensor]:
    """The published tensors (input x output) under our names (output x input)."""
    names = {"joint": ("wo", "bo")}
    for i, m in enumerate("xy"):
        names |= {
            f"encoders.{i}.first": (f"encoder_{m}/w0_e", f"encoder_{m}/b0_e"),
            f"encoders.{i}.second": (f"encoder_{m}/w1_e", f"encoder_{m}/b1_e"),
            f"decoders.{i}.selection": (f"w_selection_{m}", ""),
            f"decoders.{i}.first": (f"decoder_{m}/w0_d", f"decoder_{m}/b0_d"),
            f"decoders.{i}.second": (f"decoder_{m}/w1_d", f"decoder_{m}/b1_d"),
            f"decoders.{i}.last": (f"decoder_{m}/wo_d", f"decoder_{m}/bo_d"),
        }
    found = {f"{ours}.weight": torch.tensor(golden[prefix + w].T.copy()) for ours, (w, _) in names.items()}
    return found | {f"{ours}.bias": torch.tensor(golden[prefix + b]) for ours, (_, b) in names.items() if b}


def trainer(golden: Golden, weights: str = "w0/", *, margin: float | None = None) -> Trainer:
    """One batch of all 24 cells, with the published weights and settings."""
    modalities = [modality("rna", golden["x"], masked=True), modality("image", golden["y"])]
    parameters = MuseParameters.published(
        latent=8,
        hidden=16,
        lambda_super=float(golden["triplet_lambda"]),
        lambda_regul=float(golden["lambda_regul"]),
    )
    made = Trainer(modalities, [1.0, 1.0], parameters)
    made.network.load_state_dict(state(golden, weights))
    made.margin = float(golden["margin"]) if margin is None else margin
    return made


def labels(golden: Golden) -> list[NDArray[np.int64]]:
    return [golden[name].astype(np.int64) for name in ("label_x", "label_y")]


def test_forward(golden: Golden) -> None:
    network = MuseNetwork([30, 20], hidden=16, latent=8)
    network.load_state_dict(state(golden, "w0/"))
    with torch.no_grad():
        found = network([torch.tensor(golden["x"]), torch.tensor(golden["y"])])
    for ours, theirs in zip(
        (found.latent, *found.hidden, *found.decoded),
        ("z", "encode_x", "encode_y", "x_hat", "y_hat"),
        strict=True,
    ):
        np.testing.assert_allclose(ours, golden[f"out/{theirs}"], rtol=1e-5, atol=1e-5, err_msg=theirs)


def test_loss_its_parts_and_gradients(golden: Golden) -> None:
    made = trainer(golden)
    made._epoch("triplets", labels(golden))
    terms = {name: values[0] for name, values in made.history.terms.items()}
    for name, theirs in (
        ("loss", "loss"),
        ("penalty", "penalty"),
        ("triplet_rna", "triplet_x"),
        ("triplet_image", "triplet_y"),
    ):
        assert terms[name] == pytest.approx(float(golden[f"out/{theirs}"]), rel=1e-5), name
    reconstruction = terms["reconstruction_rna"] + terms["reconstruction_image"]
    assert reconstruction == pytest.approx(float(golden["out/reconstruction"]), rel=1e-5)
    theirs = state(golden, "grad/")
    for name, parameter in made.network.named_parameters():
        assert parameter.grad is not None
        scale = float(theirs[name].abs().max())
        assert float((parameter.grad - theirs[name]).abs().max()) <= 1e-4 * scale, name


def test_five_steps(golden: Golden) -> None:
    made = trainer(golden)
    made._phase("triplets", 5, labels(golden))
    np.testing.assert_allclose(made.history.terms["loss"], golden["loss_before_step"], rtol=1e-5)
    theirs, before = state(golden, "w5/"), state(golden, "w0/")
    for name, parameter in made.network.named_parameters():
        assert float((parameter.detach() - theirs[name]).abs().max()) <= 1e-4, name
        # the tolerance is below what the steps change, or it would say nothing
        assert float((theirs[name] - before[name]).abs().max()) > 4e-4, name
    made._epoch("triplets", labels(golden))
    assert made.history.terms["loss"][-1] == pytest.approx(float(golden["loss_after_5"]), rel=1e-5)


@pytest.mark.parametrize(("case", "margin"), [("same_label", None), ("lambda0", 0.0)])
def test_batches_of_one_label(golden: Golden, case: str, margin: float | None) -> None:
    made = trainer(golden, "w5/", margin=margin)
    made._epoch("triplets", [np.zeros(24, np.int64)] * 2)
    found = [made.history.terms[name][0] for name in ("loss", "triplet_rna", "triplet_image")]
    np.testing.assert_allclose(found, golden[f"edge/{case}"], rtol=1e-5, atol=1e-6)


def test_one_label_teaches_nothing_unless_asked_as_published(golden: Golden) -> None:
    distances = pairwise_distances(torch.tensor(golden["out/z"]))
    one = torch.zeros(24, dtype=torch.int64)
    assert float(batch_hard_triplet(distances, one, margin=1.7)) == 0
    assert float(
        batch_hard_triplet(distances, one, margin=1.7, row_max_without_negative=True)
    ) == pytest.approx(1.7, rel=1e-5)

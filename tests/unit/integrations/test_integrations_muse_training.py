"""The training of MUSE: phases, when labels change, what they weigh, batches, early ends, and what is found odd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.errors import JointError
from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.muse import training
from microsnoop_integrations.muse.modality import Modality, modality
from microsnoop_integrations.muse.training import Trainer, encode

pytestmark = pytest.mark.usefixtures("one_thread")

TINY: dict[str, Any] = {
    "latent": 4, "hidden": 6, "k": 5, "init_epochs": 2, "init_steps": 0, "n_epochs": 3, "n_steps": 0,
    "update_every": 2, "lr": 1e-3, "image_components": None, "gate": "none", "margin_sample": None,
}  # fmt: skip


def cells(n: int = 80, *, seed: int = 0) -> tuple[list[Modality], list[NDArray[np.int64]]]:
    """Two modalities of n cells, and labels that fit each of them."""
    rng = np.random.default_rng(seed)
    own = [rng.integers(0, 3, n), rng.integers(0, 4, n)]
    x = np.maximum(rng.normal(size=(3, 9))[own[0]] * 2 + rng.normal(0, 0.3, (n, 9)), 0).astype(np.float32)
    y = (rng.normal(size=(4, 5))[own[1]] + rng.normal(0, 0.3, (n, 5))).astype(np.float32)
    x[:, 0] += 0.1
    x.flags.writeable = y.flags.writeable = False
    return [modality("rna", x, masked=True), modality("image", y)], own


def trainer(modalities: list[Modality], *, gates: tuple[float, ...] = (1.0, 1.0), **changes: Any) -> Trainer:
    return Trainer(modalities, gates, MuseParameters(**TINY | changes))


def trained(labels: list[NDArray[np.int64]] | None = None, **changes: Any) -> Trainer:
    modalities, own = cells(changes.pop("n", 80))
    made = trainer(modalities, **changes)
    made.run(own if labels is None else labels)
    return made


def terms_of(made: Trainer) -> dict[str, list[float]]:
    return {name: list(values) for name, values in made.history.terms.items()}


# --- phases and labels -----------------------------------------------------------------------------


def test_labels_change_after_phase_3_and_after_epochs_0_200_and_400(monkeypatch: pytest.MonkeyPatch) -> None:
    modalities, _ = cells(64)
    made = trainer(modalities, batch_size=64, n_epochs=500, update_every=200)
    calls: list[int] = []
    labels_used: list[int] = []

    def clustered(values: NDArray, **_: Any) -> NDArray[np.int64]:
        calls.append(len(made.history.phases))
        # modalities take turns: 100, 200, 101, 201, ...
        return np.full(len(values), (len(calls) - 1) // 2 + (200 if len(calls) % 2 == 0 else 100), np.int64)

    def noted(distances: Tensor, labels: Tensor, **_: Any) -> Tensor:
        labels_used.append(int(labels[0]))
        return distances.sum() * 0

    monkeypatch.setattr(training, "cluster", clustered)
    monkeypatch.setattr(training, "batch_hard_triplet", noted)
    made.run([np.full(64, 7, np.int64), np.full(64, 8, np.int64)])
    assert made.history.phases == ["reconstruct"] * 2 + ["triplets"] * 2 + ["main"] * 500
    assert made.history.updates == [4, 5, 205, 405]
    assert calls == [4, 4, 5, 5, 205, 205, 405, 405]
    first = [7] * 2 + [100] + [101] * 200 + [102] * 200 + [103] * 99
    assert labels_used[::2] == first
    assert labels_used[1::2] == [8 if v == 7 else v + 100 for v in first]
    assert [[int(part[0]) for part in update] for update in made.label_updates] == [
        [100 + i, 200 + i] for i in range(4)
    ]


def test_labels_are_clusters_of_the_hidden_values_of_each_modality(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[NDArray, dict[str, Any]]] = []

    def clustered(values: NDArray, **settings: Any) -> NDArray[np.int64]:
        seen.append((values, settings))
        return np.arange(len(values)) % 2

    monkeypatch.setattr(training, "cluster", clustered)
    made = trained(n_epochs=1, resolution=0.6, clustering="louvain", seed=3)
    _, hidden = made.encode()
    # the last labels are of the network as it is now
    for (values, settings), wanted in zip(seen[-2:], hidden, strict=True):
        np.testing.assert_array_equal(values, wanted)
        assert settings == {"k": 5, "resolution": 0.6, "method": "louvain", "seed": 3}


def test_terms_of_the_phases() -> None:
    made = trained(lambda_super=2.0, lambda_regul=0.3, gates=(0.5, 0.25))
    t = {name: np.array(values) for name, values in terms_of(made).items()}
    assert all(len(values) == 7 for values in t.values())
    for name in ("triplet_rna", "triplet_image"):
        assert np.isnan(t[name][:2]).all()
        assert np.isfinite(t[name][2:]).all()
        assert (t[name][2:] > 0).any()
    triplets = np.nan_to_num(2.0 * (0.5 * t["triplet_rna"] + 0.25 * t["triplet_image"]))
    np.testing.assert_allclose(
        t["learned"], t["reconstruction_rna"] + t["reconstruction_image"] + triplets, rtol=1e-5
    )
    np.testing.assert_allclose(t["loss"], t["learned"] + 0.3 * t["penalty"], rtol=1e-5)
    # two square matrices of 4 x 4 numbers of variance 1 have norms of about 4 each
    assert 5 < t["penalty"][0] < 11
    assert made.margin > 0


def test_every_epoch_is_told() -> None:
    modalities, own = cells()
    told: list[tuple[int, int, str, float]] = []
    made = trainer(modalities)
    made.on_epoch = lambda *what: told.append(what)
    made.run(own)
    assert [what[:3] for what in told] == [(i + 1, 7, p) for i, p in enumerate(made.history.phases)]
    assert [what[3] for what in told] == made.history.terms["loss"]


# --- what labels weigh -----------------------------------------------------------------------------


def same(a: Trainer, b: Trainer) -> bool:
    theirs = b.network.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.network.state_dict().items())


def test_without_triplets_labels_never_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "cluster", lambda *_, **__: pytest.fail("nothing needs labels"))
    _, own = cells()
    rng = np.random.default_rng(1)
    first = trained(own, lambda_super=0.0)
    assert same(first, trained([rng.permutation(part) for part in own], lambda_super=0.0))
    assert first.history.phases == ["reconstruct"] * 2 + ["main"] * 5
    assert "triplet_rna" not in first.history.terms
    # and the test can tell: with triplets they do
    monkeypatch.undo()
    assert not same(trained(own), trained([rng.permutation(part) for part in own]))


def test_names_of_labels_do_not_matter() -> None:
    _, own = cells()
    assert same(trained(own), trained([np.array([5, -2, 90, 3])[part] for part in own]))


def test_a_closed_gate_leaves_a_modalitys_labels_without_effect() -> None:
    _, (x, y) = cells()
    other = np.random.default_rng(0).integers(0, 2, len(y))
    one_epoch = {"n_epochs": 1, "init_epochs": 3}
    assert same(
        trained([x, y], gates=(1.0, 0.0), **one_epoch), trained([x, other], gates=(1.0, 0.0), **one_epoch)
    )
    assert same(
        trained([y, x], gates=(0.0, 1.0), **one_epoch), trained([other, x], gates=(0.0, 1.0), **one_epoch)
    )
    assert not same(trained([x, y], **one_epoch), trained([x, other], **one_epoch))


def test_triplets_pull_cells_of_a_label_together() -> None:
    def separation(lambda_super: float) -> float:
        modalities, (own, _) = cells()
        made = trainer(modalities, gates=(1.0, 0.0), lambda_super=lambda_super, init_epochs=60, lr=3e-3)
        made.run([own, own])
        z = made.encode()[0]
        centre = np.stack([z[own == i].mean(axis=0) for i in range(3)])
        return float(centre.std(axis=0).mean() / (z - centre[own]).std())

    assert separation(5.0) > 1.5 * separation(0.0)


# --- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drop_last", "seen"), [(False, 70), (True, 64)])
def test_cells_of_an_epoch(drop_last: bool, seen: int) -> None:
    modalities, own = cells(70)
    made = trainer(modalities, batch_size=64, drop_last=drop_last)
    counted: list[int] = []
    made.network.register_forward_hook(lambda _, given, __: counted.append(len(given[0][0])))
    made.run(own)
    per_epoch = [64] if drop_last else [64, 6]
    assert counted == per_epoch * made.phases.total
    assert sum(per_epoch) == seen


def test_a_batch_is_capped_at_all_cells() -> None:
    modalities, own = cells(70)
    made = trainer(modalities, batch_size=512)
    counted: list[int] = []
    made.network.register_forward_hook(lambda _, given, __: counted.append(len(given[0][0])))
    made.run(own)
    assert counted == [70] * made.phases.total


def test_both_modalities_of_a_batch_are_of_the_same_cells() -> None:
    rows = np.arange(1, 81, dtype=np.float32)[:, None]
    made = trainer([modality("rna", rows * [1, 0, 2], masked=True), modality("image", -rows)], batch_size=32)
    seen: list[Tensor] = []

    def noted(_: Any, given: Any, __: Any) -> None:
        assert torch.equal(given[0][0][:, :1], -given[0][1])
        seen.append(given[0][0][:, 0])

    made.network.register_forward_hook(noted)
    made.run([np.arange(80) % 2] * 2)
    assert sorted(torch.cat(seen[:3]).tolist()) == rows[:, 0].tolist()


def test_cells_are_encoded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trained()
    whole = made.encode()
    monkeypatch.setattr(training, "_ENCODE_ROWS", 7)
    blocks = encode(made.network, made.modalities, device="cpu")
    np.testing.assert_allclose(blocks[0], whole[0], atol=1e-6)
    for part, wanted in zip(blocks[1], whole[1], strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-6)
    assert whole[0].shape == (80, 4)
    assert [part.shape for part in whole[1]] == [(80, 6)] * 2


# --- weights of the reconstruction -----------------------------------------------------------------


def test_weight_and_scale_of_the_reconstruction() -> None:
    modalities, _ = cells()
    first = trainer(modalities, batch_size=80)
    first._epoch("reconstruct", None)
    mean = trainer(modalities, batch_size=80, recon="mean")
    mean._epoch("reconstruct", None)
    a, b = terms_of(first), terms_of(mean)
    assert b["reconstruction_image"][0] == pytest.approx(a["reconstruction_image"][0] / np.sqrt(80 * 5))
    # a masked modality is divided by its entries already
    assert b["reconstruction_rna"] == pytest.approx(a["reconstruction_rna"])
    weighed = trainer([modalities[0], modality("image", modalities[1].values, weight=0.25)], batch_size=80)
    weighed._epoch("reconstruct", None)
    c = terms_of(weighed)
    assert c["learned"][0] == pytest.approx(c["reconstruction_rna"][0] + 0.25 * c["reconstruction_image"][0])


# --- ends and findings -----------------------------------------------------------------------------


def codes(made: Trainer) -> list[str]:
    return [finding.code for finding in made.findings]


def test_ordinary_cells_give_no_finding() -> None:
    assert trained(init_epochs=10).findings == []


def test_a_phase_ends_when_nothing_is_learned_any_more() -> None:
    patient = trained(patience=0, n_epochs=30, lr=1e-12)
    assert len(patient.history.phases) == 34
    # one batch, and steps too small to change anything
    hasty = trained(patience=4, n_epochs=30, init_epochs=9, batch_size=80, lr=1e-12)
    assert hasty.history.phases == ["reconstruct"] * 5 + ["triplets"] * 5 + ["main"] * 5
    assert hasty.history.updates == [10, 11, 13, 15]


def test_a_loss_that_does_not_fall_is_said() -> None:
    made = trained(lr=5.0, init_epochs=8, lambda_super=0.0)
    assert codes(made) == ["not_learning"]
    assert made.findings[0].strong


def test_cells_that_are_all_the_same_have_no_margin() -> None:
    x, y = np.ones((70, 3), np.float32), np.zeros((70, 2), np.float32)
    made = trainer([modality("rna", x, masked=True), modality("image", y)], init_epochs=30)
    made.run([np.arange(70) % 2] * 2)
    assert made.margin == 0
    assert "flat_latent" in codes(made)
    assert np.isfinite(made.encode()[0]).all()


def test_one_cluster_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "cluster", lambda values, **_: np.zeros(len(values), np.int64))
    _, (x, _) = cells()
    made = trained([x, np.zeros_like(x)], init_epochs=5)
    found = [finding.message for finding in made.findings if finding.code == "single_cluster"]
    assert len(found) == 2
    assert found[0].startswith("image")
    assert found[1].startswith("rna")
    assert terms_of(made)["triplet_image"][5:] == [0.0] * 8
    assert terms_of(made)["triplet_rna"][5] > 0
    assert terms_of(made)["triplet_rna"][-3:] == [0.0] * 3


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    modalities, own = cells()
    huge = modality("image", np.full((80, 2), 1e30, np.float32))
    with pytest.raises(JointError, match=r"epoch 0 \(reconstruct\): reconstruction_image, ") as error:
        trainer([modalities[0], huge]).run(own)
    assert error.value.code == "non_finite_loss"
    assert "reconstruction_rna" not in error.value.message


def test_the_epoch_and_the_term_are_named() -> None:
    modalities, own = cells()
    made = trainer(modalities)

    def spoil(done: int, *_: Any) -> None:
        if done == 3:
            made.network.decoders[0].last.bias.data[2] = torch.nan  # type: ignore[union-attr,index]

    made.on_epoch = spoil
    with pytest.raises(JointError, match=r"epoch 3 \(triplets\): reconstruction_rna, ") as error:
        made.run(own)
    assert error.value.code == "non_finite_loss"
    assert len(made.history.phases) == 3


# --- seeds -----------------------------------------------------------------------------------------


def test_seeds_reproduce_and_differ() -> None:
    first = trained(seed=4)
    torch.manual_seed(99)
    np.random.default_rng(5)
    again, other = trained(seed=4), trained(seed=5)
    assert same(first, again)
    assert terms_of(first)["loss"] == terms_of(again)["loss"]
    assert first.margin == again.margin
    assert not same(first, other)


def test_shuffles_follow_the_seed_too() -> None:
    modalities, _ = cells()
    start = {name: value.clone() for name, value in trainer(modalities).network.state_dict().items()}
    found = []
    for seed in (0, 1):
        made = trainer(modalities, seed=seed, batch_size=16)
        made.network.load_state_dict(start)
        made._epoch("reconstruct", None)
        found.append(made.history.terms["loss"][0])
    assert found[0] != found[1]

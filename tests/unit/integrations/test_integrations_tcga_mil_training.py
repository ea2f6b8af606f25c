"""Training, scaling and files of networks: draws, early stopping, seeds, and what a file gives back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from microsnoop.core.errors import InputError
from microsnoop.core.mil_config import MilSettings
from microsnoop_integrations.tcga import mil_training
from microsnoop_integrations.tcga.bags import Bag, BagSet
from microsnoop_integrations.tcga.mil_files import load_all, load_mil, save_all, save_mil
from microsnoop_integrations.tcga.mil_scaling import FeatureScaling, slide_means
from microsnoop_integrations.tcga.mil_training import Part, TrainedMil, draw_tiles, judge, train
from microsnoop_integrations.tcga.sampling import Weights

pytestmark = pytest.mark.usefixtures("one_thread")

F = 6
HEADER: dict[str, Any] = {
    "encoder": {"name": "toy", "sha256": "0"},
    "mpp": 0.5,
    "mpp_source": "property",
    "tiling": {"tile_px": 224},
    "mask": {},
    "counts": {},
}
TINY: dict[str, Any] = {
    "device": "cpu", "epochs": 4, "tiles": 5, "attention_width": 8, "hidden": 8, "blocks": 1, "batch_slides": 4,
}  # fmt: skip


def bag(slide: str, features: NDArray) -> Bag:
    n = len(features)
    zero = np.zeros(n)
    return Bag(
        slide, features.astype(np.float32), x0=zero.astype(int), y0=zero.astype(int), side0_px=zero, x_um=zero,
        y_um=zero, tissue_fraction=zero.astype(np.float32), header=HEADER,
    )  # fmt: skip


@pytest.fixture(scope="module")
def bags() -> BagSet:
    rng = np.random.default_rng(0)
    return BagSet.of([bag(f"s{i}", rng.normal(3, 2, (2 + i, F)) + (i % 2)) for i in range(13)])


def part(rows: range, weights: list[float] | None = None) -> Part:
    values = np.ones(len(rows)) if weights is None else np.array(weights)
    return Part(tuple(f"s{i}" for i in rows), np.array([i % 2 for i in rows]), Weights(values))


def fitted(bags: BagSet, *, seed: int = 0, on_epoch: Any = None, **settings: Any) -> TrainedMil:
    s = MilSettings.model_validate({**TINY, **settings})
    training = part(range(9))
    scaling = FeatureScaling.fit(bags, training.slides, s, seed=0)
    return train(
        bags, training, part(range(9, 13)), scaling=scaling, classes=("a", "b"), settings=s, seed=seed,
        on_epoch=on_epoch,
    )  # fmt: skip


def same(a: TrainedMil, b: TrainedMil) -> bool:
    theirs = b.network.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.network.state_dict().items())


# ---------------------------------------------------------------- draws


def test_tiles_are_drawn_once_while_there_are_enough() -> None:
    rng = np.random.default_rng(0)
    for n in (5, 6, 40):
        for _ in range(20):
            rows = draw_tiles(n, 5, replace=False, rng=rng)
            assert len(set(rows.tolist())) == 5
            assert 0 <= rows.min() <= rows.max() < n
    assert draw_tiles(3, 5, replace=False, rng=rng).tolist() == [0, 1, 2]
    assert draw_tiles(7, None, replace=False, rng=rng).tolist() == list(range(7))
    counts = np.bincount(
        np.concatenate([draw_tiles(10, 4, replace=False, rng=rng) for _ in range(5_000)]), minlength=10
    )
    assert counts.min() > 1_800
    assert counts.max() < 2_200
    twice = [len(set(draw_tiles(5, 5, replace=True, rng=rng).tolist())) for _ in range(50)]
    assert min(twice) < 5
    assert len(draw_tiles(2, 9, replace=True, rng=rng)) == 9
    assert len(draw_tiles(7, None, replace=True, rng=rng)) == 7


def test_batches_leave_out_a_last_single_slide() -> None:
    sizes = {n: [len(rows) for rows in mil_training._batches(np.arange(n), 4)] for n in (2, 4, 5, 6, 9)}
    assert sizes == {2: [2], 4: [4], 5: [4], 6: [4, 2], 9: [4, 4]}


def test_a_batch_is_padded_and_masked(bags: BagSet) -> None:
    s = MilSettings.model_validate(TINY)
    scaling = FeatureScaling(np.zeros(F), np.ones(F))
    tiles, real = mil_training._batch(
        bags, ["s0", "s9", "s2"], scaling=scaling, settings=s, rng=np.random.default_rng(0)
    )
    assert tiles.shape == (3, 5, F)
    assert real.sum(dim=1).tolist() == [2, 5, 4]
    np.testing.assert_array_equal(tiles[0, :2], bags.features("s0"))
    assert (tiles[~real] == 0).all()
    drawn = {tuple(row) for row in tiles[1].numpy().tolist()}
    assert len(drawn & {tuple(row) for row in bags.features("s9").tolist()}) == 5


# ---------------------------------------------------------------- training


def test_the_same_seed_gives_the_same_network(bags: BagSet) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = fitted(bags)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert same(one, fitted(bags))
    assert not same(one, fitted(bags, seed=1))
    assert not one.network.training


def test_the_best_epoch_is_kept_and_training_stops(bags: BagSet, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [3.0, 2.0, 2.5, 2.0, 2.1, 1.0, 0.5]
    weights: list[dict[str, torch.Tensor]] = []

    def loss(model: TrainedMil, *_: Any, **__: Any) -> float:
        weights.append({name: tensor.clone() for name, tensor in model.network.state_dict().items()})
        return told[len(weights) - 1]

    monkeypatch.setattr(mil_training, "_loss", loss)
    seen: list[tuple[int, float]] = []
    model = fitted(bags, epochs=7, patience=3, on_epoch=lambda epoch, _, value: seen.append((epoch, value)))
    assert (model.best_epoch, model.validation_loss) == (1, 2.0)
    assert [entry["validation"] for entry in model.history] == told[:5]
    assert seen == list(enumerate(told[:5]))
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, weights[1][name])


def test_the_validation_loss_is_weighted_and_sees_all_tiles(bags: BagSet) -> None:
    model = fitted(bags)
    losses = [-np.log(judge(model, bags.features(f"s{i}"))[0][i % 2]) for i in range(9, 13)]
    found = mil_training._loss(model, bags, part(range(9, 13), [1, 3, 0, 1]), device="cpu")
    assert found == pytest.approx((losses[0] + 3 * losses[1] + losses[3]) / 5, rel=1e-5)
    assert model.validation_loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_schedule_restarts_and_steps_each_batch(bags: BagSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    own = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return own(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    fitted(bags, epochs=4, batch_slides=3)  # 9 slides: 3 batches an epoch
    cosine = [0.5 * (1 + np.cos(np.pi * i / n)) for n in (3, 6) for i in range(n)] + [
        1,
        0.5 * (1 + np.cos(np.pi / 12)),
    ]
    np.testing.assert_allclose(np.array(rates[:11]) / 0.003, cosine, rtol=1e-6)
    assert len(rates) == 12


def test_weights_decide_what_is_drawn(bags: BagSet, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    own = mil_training._batch

    def batch(sources: BagSet, slides: list[str], **kwargs: Any) -> Any:
        drawn.extend(slides)
        return own(sources, slides, **kwargs)

    monkeypatch.setattr(mil_training, "_batch", batch)
    s = MilSettings.model_validate({**TINY, "epochs": 3})
    training = part(range(9), [0, 1, 1, 0, 0, 0, 0, 0, 0])
    scaling = FeatureScaling.fit(bags, training.slides, s, seed=0)
    common: dict[str, Any] = {"scaling": scaling, "classes": ("a", "b"), "seed": 0}
    train(bags, training, part(range(9, 13)), settings=s, **common)
    assert set(drawn) == {"s1", "s2"}
    assert len(drawn) == 3 * 8
    drawn.clear()
    plain = s.model_copy(update={"sampling": "none", "epochs": 1, "batch_slides": 9})
    train(bags, part(range(9)), part(range(9, 13)), settings=plain, **common)
    assert sorted(drawn) == sorted(f"s{i}" for i in range(9))


def test_trainings_that_are_refused(bags: BagSet) -> None:
    s = MilSettings.model_validate(TINY)
    scaling = FeatureScaling(np.zeros(F), np.ones(F))
    common: dict[str, Any] = {"scaling": scaling, "classes": ("a", "b"), "settings": s, "seed": 0}
    with pytest.raises(InputError, match="got 1 and 4"):
        train(bags, part(range(1)), part(range(9, 13)), **common)
    with pytest.raises(InputError, match="got 9 and 0"):
        train(bags, part(range(9)), part(range(0)), **common)
    wild = BagSet.of([bag(f"s{i}", np.full((3, F), np.nan)) for i in range(13)])
    with pytest.raises(InputError, match="non_finite_loss: epoch 0"):
        train(wild, part(range(9)), part(range(9, 13)), **common)


# ---------------------------------------------------------------- scaling


def test_scaling_by_all_training_tiles(bags: BagSet) -> None:
    slides = ["s3", "s7", "s11"]
    all_tiles = np.concatenate([bags.features(s) for s in slides]).astype(np.float64)
    found = FeatureScaling.fit(bags, slides, MilSettings(), seed=0)
    np.testing.assert_allclose(found.mean, all_tiles.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.sd, all_tiles.std(axis=0), rtol=1e-12)
    scaled = found.apply(all_tiles.astype(np.float32))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-6)
    plain = FeatureScaling.fit(bags, slides, MilSettings(compat={"no_standardise": True}), seed=0)
    np.testing.assert_array_equal(plain.apply(bags.features("s3")), bags.features("s3"))
    np.testing.assert_allclose(slide_means(bags, slides)[1], bags.features("s7").mean(axis=0), rtol=1e-5)


def test_constant_features_become_zero() -> None:
    tiles = np.random.default_rng(0).normal(size=(8, F)).astype(np.float32)
    tiles[:, 2] = 1234.567
    found = FeatureScaling.fit(BagSet.of([bag("s", tiles)]), ["s"], MilSettings(), seed=0)
    assert found.sd[2] == 1
    assert np.abs(found.apply(tiles)[:, 2]).max() < 1e-3
    # the last digit of a float32 is not a spread
    tiles[::2, 2] = np.nextafter(np.float32(1234.567), np.float32(2000))
    found = FeatureScaling.fit(BagSet.of([bag("s", tiles)]), ["s"], MilSettings(), seed=0)
    assert np.abs(found.apply(tiles)[:, 2]).max() < 1e-3


def test_components_are_those_of_a_sample_of_each_slide(bags: BagSet) -> None:
    slides = [f"s{i}" for i in range(9)]
    found = FeatureScaling.fit(bags, slides, MilSettings(pca=3), seed=0)
    assert found.width == 3
    tiles = np.concatenate([bags.features(s) for s in slides])
    reduced = found.apply(tiles).astype(np.float64)
    assert reduced.shape == (len(tiles), 3)
    covariance = np.cov(reduced.T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.05
    assert np.diag(covariance).mean() == pytest.approx(1, rel=0.05)
    few = FeatureScaling.fit(bags, slides, MilSettings(pca=3, pca_tiles=2), seed=0)
    assert not np.allclose(few.arrays()["reduction/axes"], found.arrays()["reduction/axes"])
    with pytest.raises(InputError, match="7 components"):
        FeatureScaling.fit(bags, slides, MilSettings(pca=7), seed=0)
    with pytest.raises(InputError, match="3 components"):
        FeatureScaling.fit(bags, ["s0"], MilSettings(pca=3), seed=0)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "settings",
    [{}, {"pca": 3}, {"pooling": "gated", "heads": 2, "tiles": None}, {"pooling": "mean"}],
    ids=str,
)
def test_a_network_comes_back(bags: BagSet, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = fitted(bags, **settings)
    path = save_mil(model, tmp_path / "models", name="m")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = load_mil(path)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(model, again)
    for ours, theirs in zip(
        judge(model, bags.features("s12")), judge(again, bags.features("s12")), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    for name in ("classes", "settings", "seed", "best_epoch", "validation_loss", "history", "about"):
        assert getattr(again, name) == getattr(model, name)
    for name, array in model.scaling.arrays().items():
        assert again.scaling.arrays()[name].flags.c_contiguous == array.flags.c_contiguous
    about = json.loads(path.read_text())
    assert about["about"]["encoder"] == HEADER["encoder"]
    assert about["features"] == F
    assert sorted(p.name for p in path.parent.iterdir()) == ["m.json", "m.safetensors"]


def test_all_folds_are_saved(bags: BagSet, tmp_path: Path) -> None:
    model = fitted(bags)
    paths = save_all([[model, model], [model]], tmp_path)
    assert [p.name for p in paths] == ["fold0-0.json", "fold0-1.json", "fold1-0.json"]
    assert len(load_all(tmp_path)) == 3
    with pytest.raises(InputError, match="holds no network"):
        load_all(tmp_path / "no")


def test_files_that_are_refused(bags: BagSet, tmp_path: Path) -> None:
    path = save_mil(fitted(bags), tmp_path, name="m")
    arrays = path.with_suffix(".safetensors")
    text, data = path.read_text(), arrays.read_bytes()
    arrays.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"is not what m\.json was written with"):
        load_mil(path)
    arrays.write_bytes(data)
    for changed, message in [
        ("{", "is not JSON"),
        (json.dumps({**json.loads(text), "format": 2}), "in format 1"),
        ("[]", "in format 1"),
        (json.dumps({**json.loads(text), "classes": ["a", "b", "c"]}), "does not describe"),
        (json.dumps({k: v for k, v in json.loads(text).items() if k != "orders"}), "does not describe"),
    ]:
        path.write_text(changed)
        with pytest.raises(InputError, match=message):
            load_mil(path)
    path.write_text(text)
    arrays.unlink()
    with pytest.raises(InputError, match="two files"):
        load_mil(path)
    broken = fitted(bags)
    broken.scaling.mean[0] = np.nan
    with pytest.raises(InputError, match="scaling/mean is not finite"):
        save_mil(broken, tmp_path, name="x")

"""One contract for every segmenter; packages of others are played by small modules of the same shape."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from microsnoop.core.errors import ConfigError, EncoderError, MissingDependency
from microsnoop.models.segmenters import Segmenter, check_segmenter, load_segmenter
from microsnoop.ops.segment import ThresholdSettings, segment_threshold

Freeze = Callable[[NDArray], NDArray]
SETTINGS = ThresholdSettings()
FOREIGN = ("cellpose", "stardist", "instanseg")


class Packages:
    """What the packages were called with, and what they shall give."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.mask: Callable[[NDArray], Any] = lambda plane: ndimage.label(plane > plane.mean())[0]


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Packages:
    """Fake cellpose, stardist and instanseg with the signatures their documentation gives."""
    seen = Packages()

    class CellposeModel:
        def __init__(self, gpu: bool = False, pretrained_model: str = "cpsam") -> None:
            seen.calls.append(("load", pretrained_model))

        def eval(self, x: NDArray, diameter: float | None = None) -> tuple[Any, list, NDArray]:
            seen.calls.append(("diameter", diameter))
            mask = seen.mask(x)
            x[:] = -1  # packages may use their input as working memory
            return mask, [], np.zeros(256)

    class StarDist2D:
        def __init__(self, config: object, name: str, basedir: str) -> None:
            assert config is None
            seen.calls.append(("load", str(Path(basedir) / name)))

        def predict_instances(self, img: NDArray) -> tuple[Any, dict]:
            seen.calls.append(("range", tuple(np.percentile(img, (1, 99.8)))))
            return seen.mask(img), {}

    class InstanSeg:
        def __init__(self, model_type: object, verbosity: int = 1) -> None:
            assert not isinstance(model_type, str), "a name would be looked up on the web"
            seen.calls.append(("load", model_type.path))  # type: ignore[attr-defined]

        def eval_small_image(
            self, image: NDArray, *, return_image_tensor: bool = True, target: str = "all_outputs"
        ) -> torch.Tensor:
            assert not return_image_tensor
            assert target == "nuclei"
            return torch.as_tensor(np.asarray(seen.mask(image), np.float32))[None, None]

    def module(name: str, **names: object) -> None:
        fake = ModuleType(name)
        fake.__dict__.update(names)
        monkeypatch.setitem(sys.modules, name, fake)

    module("cellpose")
    module("cellpose.models", CellposeModel=CellposeModel)
    module("stardist")
    module("stardist.models", StarDist2D=StarDist2D)
    module("instanseg", InstanSeg=InstanSeg)
    monkeypatch.setattr(torch.jit, "load", lambda path: SimpleNamespace(path=path))
    return seen


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, str | None]:
    """Where each method finds its weights."""
    (tmp_path / "fluo").mkdir()
    for name in ("fluo/config.json", "fluo/weights_best.h5", "cyto", "instanseg.pt"):
        (tmp_path / name).write_bytes(b"weights")
    return {
        "threshold": None,
        "cellpose": str(tmp_path / "cyto"),
        "stardist": str(tmp_path / "fluo"),
        "instanseg": str(tmp_path / "instanseg.pt"),
    }


@pytest.fixture
def plane(rng: np.random.Generator, frozen: Freeze) -> NDArray[np.uint16]:
    spots = np.zeros((96, 128))
    spots[16::32, 16::32] = 1
    blurred = ndimage.gaussian_filter(spots, 4)
    return frozen(
        np.round(100 + 900 * blurred / blurred.max() + rng.normal(size=(96, 128))).astype(np.uint16)
    )


def load(method: str, weights: dict[str, str | None], **changes: Any) -> Segmenter:
    given: dict[str, Any] = {"diameter_px": None, "settings": SETTINGS, "model": weights[method]} | changes
    return load_segmenter(method, **given)


@pytest.mark.parametrize("method", ["threshold", *FOREIGN])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_contract(
    method: str, dtype: type, packages: Packages, weights: dict, plane: NDArray, frozen: Freeze
) -> None:
    segmenter = load(method, weights)
    assert segmenter.name.split(":")[0] == method
    given = frozen((plane // 8).astype(dtype))
    mask = segmenter(given)
    assert mask.shape == (96, 128)
    assert mask.dtype == np.int32
    assert mask.min() == 0
    assert len(np.unique(mask)) - 1 == mask.max() == 12
    assert (mask[16::32, 16::32] > 0).all()
    assert (mask[::32, ::32] == 0).all()
    np.testing.assert_array_equal(segmenter(given), mask)


@pytest.mark.parametrize("method", ["threshold", *FOREIGN])
def test_planes_that_are_refused(method: str, packages: Packages, weights: dict) -> None:
    segmenter = load(method, weights)
    with pytest.raises(ValueError, match="a plane must be"):
        segmenter(np.zeros((3, 96, 128)))
    with pytest.raises(ValueError, match="not finite"):
        segmenter(np.full((96, 128), np.nan))


def test_the_built_in_one_is_the_operation(plane: NDArray, weights: dict) -> None:
    np.testing.assert_array_equal(load("threshold", weights)(plane), segment_threshold(plane, SETTINGS))
    fixed = load("threshold", weights, diameter_px=40.0)(plane)
    np.testing.assert_array_equal(fixed, segment_threshold(plane, ThresholdSettings(diameter_px=40.0)))


def test_packages_get_the_local_weights_and_what_they_expect(
    packages: Packages, weights: dict, plane: NDArray
) -> None:
    load("cellpose", weights, diameter_px=21.0)(plane)
    load("stardist", weights)(plane)
    load("instanseg", weights)(plane)
    assert [value for what, value in packages.calls if what == "load"] == [weights[m] for m in FOREIGN]
    calls = dict(packages.calls)
    assert calls["diameter"] == 21.0
    assert calls["range"] == pytest.approx((0, 1), abs=1e-5)


@pytest.mark.parametrize("method", FOREIGN)
def test_a_missing_package_names_its_extra(
    method: str, monkeypatch: pytest.MonkeyPatch, weights: dict
) -> None:
    monkeypatch.setitem(sys.modules, method, None)
    monkeypatch.setitem(sys.modules, f"{method}.models", None)
    attempts = (lambda: load(method, weights), lambda: check_segmenter(method, weights[method]))
    for attempt in attempts:
        with pytest.raises(MissingDependency, match=method) as caught:
            attempt()
        assert f"microsnoop-platform[{method}]" in caught.value.hint


@pytest.mark.parametrize("method", FOREIGN)
@pytest.mark.parametrize("model", [None, "nowhere", "."])
def test_missing_weights_are_refused_and_never_fetched(
    method: str, model: str | None, packages: Packages, weights: dict
) -> None:
    with pytest.raises(EncoderError, match="weights") as caught:
        load(method, weights, model=model)
    assert "nothing is downloaded" in caught.value.hint
    with pytest.raises(EncoderError, match="weights"):
        check_segmenter(method, model)
    assert packages.calls == []


@pytest.mark.parametrize("method", ["threshold", *FOREIGN])
def test_what_is_there_passes_the_check_without_being_loaded(
    method: str, packages: Packages, weights: dict
) -> None:
    check_segmenter(method, weights.get(method))
    assert packages.calls == []


def test_a_stardist_folder_without_weights_is_refused(packages: Packages, weights: dict) -> None:
    (Path(weights["stardist"]) / "weights_best.h5").unlink()  # StarDist would go on with random weights
    with pytest.raises(EncoderError, match="no weights"):
        load("stardist", weights)


@pytest.mark.parametrize("method", FOREIGN)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (lambda plane: np.zeros((64, 64), int), "shape"),
        (lambda plane: plane.T.astype(int), "shape"),
        (lambda plane: np.full(plane.shape, 0.5), "not labels"),
        (lambda plane: np.full(plane.shape, -1), "not labels"),
    ],
)
def test_a_package_that_breaks_the_contract_is_caught(
    method: str, mask: Callable, message: str, packages: Packages, weights: dict, plane: NDArray
) -> None:
    packages.mask = mask
    with pytest.raises(EncoderError, match=message):
        load(method, weights)(plane)


def test_arguments_that_are_refused(packages: Packages, weights: dict) -> None:
    with pytest.raises(ConfigError, match="one of threshold, cellpose"):
        load_segmenter("sam", diameter_px=None, settings=SETTINGS, model=None)
    with pytest.raises(ConfigError, match="has no weights"):
        load("threshold", weights, model="cyto")
    for method in ("stardist", "instanseg"):
        with pytest.raises(ConfigError, match="takes no diameter"):
            load(method, weights, diameter_px=20.0)

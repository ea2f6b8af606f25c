"""Masks find their images by name or by fields; what has no partner is said, not guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError
from microsnoop.io.manifest import InputList, read_records


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, np.zeros((12, 16), np.uint16))


def _read(tmp_path: Path, **settings: object) -> InputList:
    return read_records(InputConfig.model_validate(settings))


def _names(inputs: InputList) -> list[str | None]:
    return [uri and Path(uri).name for uri in inputs.records["mask_uri"].to_pylist()]


@pytest.mark.parametrize("ending", ["", "_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg"])
def test_a_mask_has_the_name_of_its_image_with_or_without_an_ending(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        _file(tmp_path / "images" / f"{name}.tif")
        _file(tmp_path / "masks" / f"{name}{ending}.tif")
    found = _read(tmp_path, folder=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    assert _names(found) == [f"a{ending}.tif", f"b{ending}.tif"]
    assert None not in found.records["mask_fingerprint"].to_pylist()


def test_an_image_without_a_mask_stays_and_a_mask_without_an_image_is_noted(tmp_path: Path) -> None:
    for name in ("images/a.tif", "images/b.tif", "masks/b.tif", "masks/z.tif"):
        _file(tmp_path / name)
    found = _read(tmp_path, folder=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    assert _names(found) == [None, "b.tif"]
    assert any("1 images have no mask" in note for note in found.notes)
    assert any("1 masks" in note and "belong to no image" in note for note in found.notes)


def test_no_mask_at_all_is_an_error(tmp_path: Path) -> None:
    for name in ("images/a.tif", "masks/x.tif"):
        _file(tmp_path / name)
    with pytest.raises(InputError, match="none of 1 label images"):
        _read(tmp_path, folder=str(tmp_path / "images"), masks=str(tmp_path / "masks"))


def test_same_names_in_two_plates_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for plate in ("P1", "P2"):
        _file(tmp_path / "images" / plate / "A01.tif")
        _file(tmp_path / "masks" / plate / "A01_mask.tif")
    found = _read(tmp_path, folder=str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    plates = [Path(str(uri)).parent.name for uri in found.records["mask_uri"].to_pylist()]
    assert plates == ["P1", "P2"]


def test_two_masks_for_one_image_are_an_error(tmp_path: Path) -> None:
    for name in ("images/a.tif", "masks/one/a.tif", "masks/two/a_mask.tif"):
        _file(tmp_path / name)
    with pytest.raises(InputError, match="two masks could belong to"):
        _read(tmp_path, folder=str(tmp_path / "images"), masks=str(tmp_path / "masks"))


def test_a_pattern_joins_masks_and_images_by_their_fields(tmp_path: Path) -> None:
    for well in ("A01", "A02"):
        for channel in "12":
            _file(tmp_path / "images" / f"P1_{well}_w{channel}.tif")
    _file(tmp_path / "masks" / "A02-P1.tif")
    found = _read(
        tmp_path,
        pattern=str(tmp_path / "images/{plate}_{well}_w{channel}.tif"),
        masks=str(tmp_path / "masks/{well}-{plate}.tif"),
    )
    assert _names(found) == [None, "A02-P1.tif"]


@pytest.mark.parametrize("masks", ["masks/{site}.tif", "masks/{well}_{channel}.tif"])
def test_fields_that_the_images_do_not_have_are_an_error(tmp_path: Path, masks: str) -> None:
    _file(tmp_path / "images" / "A01.tif")
    _file(tmp_path / "masks" / "A01_2.tif")
    with pytest.raises(InputError, match="which the images do not have"):
        _read(tmp_path, pattern=str(tmp_path / "images/{well}.tif"), masks=str(tmp_path / masks))


def test_a_manifest_names_masks_and_may_leave_one_out(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif", "m.tif"):
        _file(tmp_path / name)
    (tmp_path / "list.csv").write_text("uri,mask,stain\na.tif,m.tif,x\nb.tif,,y\n")
    found = _read(tmp_path, manifest=str(tmp_path / "list.csv"), columns={"mask_uri": "mask"})
    assert _names(found) == ["m.tif", None]
    assert "meta_stain" in found.records.column_names
    with pytest.raises(InputError, match="both say where the cells are"):
        _read(
            tmp_path, manifest=str(tmp_path / "list.csv"), columns={"mask_uri": "mask"}, masks=str(tmp_path)
        )


def test_a_changed_mask_changes_the_key_of_its_image_alone(tmp_path: Path) -> None:
    for name in ("images/a.tif", "images/b.tif", "masks/a.tif", "masks/b.tif"):
        _file(tmp_path / name)
    settings = {"folder": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}
    before = _read(tmp_path, **settings).records["record_key"].to_pylist()
    tifffile.imwrite(tmp_path / "masks" / "b.tif", np.ones((12, 17), np.uint16))
    after = _read(tmp_path, **settings).records["record_key"].to_pylist()
    assert [x == y for x, y in zip(before, after, strict=True)] == [True, False]
    without = _read(tmp_path, folder=str(tmp_path / "images")).records["record_key"].to_pylist()
    assert not set(without) & set(before)


def test_a_mask_may_have_the_id_of_its_image_as_its_path(tmp_path: Path) -> None:
    for well in ("A01", "A02"):
        for channel in "12":
            _file(tmp_path / "images" / f"P1_{well}_w{channel}.tif")
        _file(tmp_path / "masks" / "P1" / f"{well}_masks.tif")
    found = _read(
        tmp_path,
        pattern=str(tmp_path / "images/{plate}_{well}_w{channel}.tif"),
        masks=str(tmp_path / "masks"),
    )
    assert found.records["image_id"].to_pylist() == ["P1/A01", "P1/A02"]
    assert _names(found) == ["A01_masks.tif", "A02_masks.tif"]

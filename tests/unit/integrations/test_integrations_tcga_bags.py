"""Bags of tiles: files, sets, what must not be mixed, and the way to AnnData and back."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.bag import COORDINATES, read_header
from microsnoop_integrations.tcga.bag_anndata import bags_from_anndata, bags_to_anndata
from microsnoop_integrations.tcga.bags import Bag, BagSet, read_bag, write_bag

HEADER: dict[str, Any] = {
    "encoder": {"name": "microsnoop", "sha256": "ab" * 32},
    "mpp": 0.499,
    "mpp_source": "property",
    "tiling": {"tile_px": 224, "target_mpp": 0.5, "overlap_px": 0},
    "mask": {"method": "otsu"},
    "counts": {"grid": 40, "kept": 12, "rejected": 1},
}


def bag(slide: str = "s1", n: int = 12, *, width: int = 5, seed: int = 0, **header: Any) -> Bag:
    rng = np.random.default_rng(seed)
    x0, y0 = np.arange(n) % 4 * 224, np.arange(n) // 4 * 225
    features = rng.normal(size=(n, width)).astype(np.float32)
    features.flags.writeable = False
    return Bag(
        slide,
        features,
        x0=x0,
        y0=y0,
        side0_px=np.full(n, 224.449),
        x_um=(x0 + 112.2245) * 0.499,
        y_um=(y0 + 112.2245) * 0.499,
        tissue_fraction=np.linspace(0.75, 1, n, dtype=np.float32),
        header={**HEADER, **header},
        tile_index=np.arange(n) * 3,
        flags=(("constant_plane", "sparse_plane"), *[()] * (n - 1)),
    )


def assert_same(found: Bag, wanted: Bag, *, rtol: float = 0) -> None:
    assert found.slide_id == wanted.slide_id
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, wanted.features, rtol=rtol, atol=rtol)
    for name, kind in COORDINATES:
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        assert getattr(found, name).dtype == kind
    assert found.flags == wanted.flags
    assert wanted.header.items() <= found.header.items()


# ---------------------------------------------------------------- files


def test_a_bag_comes_back(tmp_path: Path) -> None:
    own = bag("TCGA-AA-0001-01Z-00-DX1")
    path = write_bag(own, tmp_path / "new")
    assert path == tmp_path / "new" / "TCGA-AA-0001-01Z-00-DX1.bag.parquet"
    assert_same(read_bag(path), own)
    header = read_header(path)
    assert header["schema_version"] == 1
    assert header["slide_id"] == own.slide_id
    assert (header["features_dtype"], header["features_max_error"]) == ("float32", 0)
    table = pq.read_table(path)
    assert table.num_rows == 12
    assert table.column_names[0] == "slide_id"
    assert table["side0_px"].to_pylist()[0] == 224.449


def test_half_precision_says_its_error(tmp_path: Path) -> None:
    own = bag()
    path = write_bag(own, tmp_path, dtype="float16")
    found = read_bag(path)
    error = np.abs(found.features - own.features).max()
    assert 0 < error < 2e-3
    assert read_header(path)["features_max_error"] == pytest.approx(error)
    assert pq.read_schema(path).field("features").type.value_type == pa.float16()
    assert_same(found, own, rtol=1e-2)
    big = own.features.copy()
    big[0, 0] = 1e5
    with pytest.raises(InputError, match="1 features are not finite as float16"):
        write_bag(replace(own, features=big), tmp_path, dtype="float16")
    assert_same(read_bag(path), own, rtol=1e-2)  # the old file is untouched


def test_a_slide_of_any_name_has_a_file(tmp_path: Path) -> None:
    own = bag("batch 1/Träger #2")
    path = write_bag(own, tmp_path)
    assert path.parent == tmp_path
    assert list(BagSet.read(tmp_path)) == ["batch 1/Träger #2"]


def test_what_is_no_bag(tmp_path: Path) -> None:
    path = tmp_path / "x.bag.parquet"
    with pytest.raises(InputError, match="is not a bag"):
        read_bag(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="is not a bag"):
        read_bag(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(InputError, match="is not a bag"):
        read_bag(path)
    whole = write_bag(bag(), tmp_path / "b")
    table = pq.read_table(whole)
    pq.write_table(table.drop_columns(["y0"]), path)
    with pytest.raises(InputError, match="is damaged"):
        read_bag(path)
    header = {**json.loads(table.schema.metadata[b"microsnoop_bag"]), "schema_version": 2}
    pq.write_table(table.replace_schema_metadata({b"microsnoop_bag": json.dumps(header)}), path)
    with pytest.raises(InputError, match="schema version 2, known is 1"):
        read_bag(path)
    with pytest.raises(InputError, match="holds no bag"):
        BagSet.read(tmp_path / "nowhere")


def test_bags_that_cannot_be() -> None:
    own = bag()
    assert len(own) == 12
    plain = replace(own, tile_index=None, flags=None)
    assert plain.tile_index is not None
    assert plain.tile_index.tolist() == list(range(12))
    assert plain.flags == ((),) * 12
    with pytest.raises(InputError, match=r"s1: features must be \(n, F\)"):
        replace(own, features=np.empty((0, 5), np.float32))
    with pytest.raises(InputError, match="s1: 11 y_um for 12 tiles"):
        replace(own, y_um=own.y_um[1:])
    with pytest.raises(InputError, match="lacks mpp_source, counts"):
        replace(own, header={k: v for k, v in HEADER.items() if k not in ("mpp_source", "counts")})


# ---------------------------------------------------------------- sets


def test_a_set_in_memory_and_on_disk(tmp_path: Path) -> None:
    bags = [bag("b", 9, seed=1), bag("a", 12, seed=2, mpp=0.25)]
    memory = BagSet.of(bags)
    assert list(memory) == ["b", "a"]
    assert memory.width == 5
    assert memory.shared == {key: HEADER[key] for key in ("encoder", "tiling", "mask")}
    memory.write(tmp_path)
    plain, mapped = BagSet.read(tmp_path), BagSet.read(tmp_path, scratch=tmp_path / "scratch")
    for found in (plain, mapped):
        assert list(found) == ["a", "b"]
        assert len(found) == 2
        assert "a" in found
        assert "c" not in found
        for own in bags:
            np.testing.assert_array_equal(found.features(own.slide_id), own.features)
            assert_same(found.bag(own.slide_id), own)
    assert isinstance(mapped.features("a"), np.memmap)
    assert mapped.features("a") is mapped.features("a")
    with pytest.raises(InputError, match="no bag of the slide 'c'"):
        plain.features("c")


def test_a_mapped_set_travels_light_and_sees_new_bags(tmp_path: Path) -> None:
    BagSet.of([bag("a", 400, width=64)]).write(tmp_path)
    found = BagSet.read(tmp_path, scratch=tmp_path / "scratch")
    before = np.array(found.features("a"))
    sent = copy.deepcopy(found)  # takes what a process border takes
    assert found.__getstate__()["_mapped"] == {}
    np.testing.assert_array_equal(sent.features("a"), before)
    write_bag(bag("a", 401, width=64, seed=9), tmp_path)
    again = BagSet.read(tmp_path, scratch=tmp_path / "scratch")
    assert len(again.features("a")) == 401


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {"name": "microsnoop", "sha256": "cd" * 32}}, "encoder of 'b' is .*cdcd"),
        ({"tiling": {**HEADER["tiling"], "target_mpp": 1.0}}, "tiling of 'b'"),
        ({"mask": {"method": "user"}}, "mask of 'b'"),
        ({"width": 6}, "number of features of 'b' is 6, that of 'a' is 5"),
    ],
)
def test_bags_made_in_two_ways_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    two = [bag("a"), bag("b", **change)]
    with pytest.raises(InputError, match=rf"mixed_bags: the {message}"):
        BagSet.of(two)
    for own in two:
        write_bag(own, tmp_path)
    with pytest.raises(InputError, match=rf"mixed_bags: the {message}"):
        BagSet.read(tmp_path)


def test_a_slide_has_one_bag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a' has two bags"):
        BagSet.of([bag("a"), bag("a")])
    write_bag(bag("a"), tmp_path).rename(tmp_path / "copy.bag.parquet")
    write_bag(bag("a"), tmp_path)
    with pytest.raises(InputError, match="'a' has two bags"):
        BagSet.read(tmp_path)
    with pytest.raises(InputError, match="needs at least one"):
        BagSet.of([])


# ---------------------------------------------------------------- AnnData


def test_to_anndata_and_back(tmp_path: Path) -> None:
    bags = [bag("b", 9, seed=1), bag("a", 12, seed=2, mpp=0.25)]
    data = bags_to_anndata(BagSet.of(bags))
    assert data.shape == (21, 5)
    assert data.obs_names[0] == "b:0:0:224.449"
    assert data.obs_names.is_unique
    np.testing.assert_array_equal(data.obsm["spatial"][:9, 0], bags[0].x_um)
    np.testing.assert_array_equal(data.obsm["spatial"][9:, 1], bags[1].y_um)
    assert data.obs["flags"].iloc[0] == "constant_plane,sparse_plane"
    data.write_h5ad(tmp_path / "tiles.h5ad")
    for found in (data, ad.read_h5ad(tmp_path / "tiles.h5ad")):
        back = bags_from_anndata(found)
        assert list(back) == ["b", "a"]
        for own in bags:
            assert_same(back.bag(own.slide_id), own)
    mixed = bags_from_anndata(data[np.random.default_rng(0).permutation(21)])
    one = mixed.bag("a")
    order = np.argsort(one.tile_index)
    np.testing.assert_array_equal(one.features[order], bags[1].features)
    np.testing.assert_array_equal(one.y_um[order], bags[1].y_um)


def exported(n: int = 8) -> ad.AnnData:
    obs = pd.DataFrame(
        {
            "image_id": ["a"] * 5 + ["b"] * (n - 5),
            "x0_px": np.arange(n) * 224,
            "y0_px": 10,
            "width_px": 224,
            "pixel_size_um": 0.5,
        },
        index=[f"t{i}" for i in range(n)],
    )
    data = ad.AnnData(np.ones((n, 3), np.float32), obs=obs)
    data.obsm["spatial"] = np.column_stack([np.arange(n) * 112.0 + 56, np.full(n, 61.0)])
    data.uns["microsnoop"] = {"encoder": "microsnoop", "encoder_sha256": "ab"}
    return data


def test_an_export_of_tiles_becomes_bags() -> None:
    found = bags_from_anndata(exported())
    assert {slide: len(found.bag(slide)) for slide in found} == {"a": 5, "b": 3}
    one = found.bag("b")
    assert one.x0.tolist() == [1120, 1344, 1568]
    assert one.x_um.tolist() == [616, 728, 840]
    assert np.isnan(one.tissue_fraction).all()
    assert one.header["encoder"] == {"name": "microsnoop", "sha256": "ab"}
    assert one.header["mpp"] == 0.5
    assert one.header["tiling"] == {"sides_um": [112.0]}
    given = bags_from_anndata(exported(), headers=dict.fromkeys("ab", HEADER))
    assert given.bag("a").header == HEADER


def test_tiles_that_are_no_bags() -> None:
    data = exported()
    data.X[3, 1] = np.nan
    with pytest.raises(InputError, match="1 tiles have features"):
        bags_from_anndata(data)
    data = exported()
    del data.uns["microsnoop"]
    with pytest.raises(InputError, match="which encoder"):
        bags_from_anndata(data)
    data = exported()
    del data.obs["x0_px"]
    with pytest.raises(InputError, match="neither 'x0' nor 'x0_px'"):
        bags_from_anndata(data)
    data = exported()
    del data.obsm["spatial"]
    with pytest.raises(InputError, match="spatial"):
        bags_from_anndata(data)
    data = exported()
    data.obs.loc[data.obs["image_id"] == "b", "width_px"] = 448
    with pytest.raises(InputError, match="mixed_bags"):
        bags_from_anndata(data)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from microsnoop.core.config import InputConfig
from microsnoop.core.errors import InputError
from microsnoop.io.images import ImageSource, read_image
from microsnoop.io.manifest import read_records
from microsnoop.io.patterns import compile_pattern, match_files


@pytest.fixture
def touch(tmp_path: Path) -> Callable[..., str]:
    """Make empty files and return the folder."""

    def make(*names: str) -> str:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return str(tmp_path)

    return make


def test_files_that_differ_in_the_channel_are_one_image(
    tmp_path: Path, planes: Callable[..., NDArray]
) -> None:
    truth = planes(4)
    for i, name in enumerate(["A01_s1_w1", "A01_s1_w2", "A01_s2_w1", "A01_s2_w2"]):
        (tmp_path / "P 1").mkdir(exist_ok=True)
        np.save(tmp_path / "P 1" / f"{name}.npy", truth[i])
    (tmp_path / "P 1" / "thumb.npy").write_bytes(b"")
    found = read_records(InputConfig(pattern=f"{tmp_path}/{{plate}}/{{well}}_s{{site}}_w{{channel}}.npy"))
    first, second = found.records.to_pylist()
    assert (first["image_id"], second["image_id"]) == ("P 1/A01/1", "P 1/A01/2")
    assert first["uri_channels"] == second["uri_channels"] == ["1", "2"]
    assert (first["meta_plate"], first["meta_well"], first["meta_site"]) == ("P 1", "A01", "1")
    assert found.notes == (f"1 files below {tmp_path} do not match the pattern and were left out",)
    image = read_image(ImageSource(tuple(second["uris"]), tuple(second["uri_channels"])))
    np.testing.assert_array_equal(image.planes, truth[2:])


def test_fields_stay_text(touch: Callable[..., str], records_of: Callable[..., Any]) -> None:
    folder = touch("007_01.tif", "008_02.tif")
    records = records_of(pattern=f"{folder}/{{plate}}_{{n}}.tif")
    assert [(r["meta_plate"], r["meta_n"]) for r in records] == [("007", "01"), ("008", "02")]
    assert [r["uri_channels"] for r in records] == [None, None]


def test_a_repeated_field_must_hold_the_same_text(
    touch: Callable[..., str], records_of: Callable[..., Any]
) -> None:
    folder = touch("P1/P1_A01.tif", "P1/P2_A02.tif", "P2/P2_A03.tif")
    records = records_of(pattern=f"{folder}/{{plate}}/{{plate}}_{{well}}.tif")
    assert [r["image_id"] for r in records] == ["P1/A01", "P2/A03"]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.tif", ["a.tif", "b.tif"]),
        ("*/*.tif", ["x/c.tif"]),
        ("**/*.tif", ["a.tif", "b.tif", "x/c.tif", "x/y/d.tif"]),
        ("**/d.tif", ["x/y/d.tif"]),
        ("x/**/*.tif", ["x/c.tif", "x/y/d.tif"]),
        ("x/**/y/*.tif", ["x/y/d.tif"]),
        ("a*", ["a.tif"]),
        ("**/y/**/d*", ["x/y/d.tif"]),
    ],
)
def test_stars(
    touch: Callable[..., str], records_of: Callable[..., Any], pattern: str, wanted: list[str]
) -> None:
    folder = touch("a.tif", "b.tif", "x/c.tif", "x/y/d.tif", "x/y/d.png2")
    records = records_of(pattern=f"{folder}/{pattern}")
    assert (
        sorted(r["uris"][0].removeprefix(folder + "/") for r in records if "png2" not in r["uris"][0])
        == wanted
    )
    assert len({r["image_id"] for r in records}) == len(records)


def test_stars_beside_fields(touch: Callable[..., str], records_of: Callable[..., Any]) -> None:
    folder = touch("r1/A01_xyz_w1.tif", "r2/A02_q_w1.tif")
    records = records_of(pattern=f"{folder}/**/{{well}}_*_w{{channel}}.tif")
    assert [r["image_id"] for r in records] == ["A01", "A02"]


@pytest.mark.parametrize(
    "odd", ["a.b", "a+b", "(a)", "[a]", "a^b$", "a|b", "a?b", "a b", "ä", "a\\b", "a#b", "&"]
)
def test_other_characters_mean_themselves(
    touch: Callable[..., str], records_of: Callable[..., Any], odd: str
) -> None:
    folder = touch(f"{odd}/{odd}_A01.tif", "axb/axb_A02.tif", "aab/aab_A03.tif")
    (record,) = records_of(pattern=f"{folder}/{odd}/{odd}_{{well}}.tif")
    assert record["meta_well"] == "A01"


@pytest.mark.parametrize("value", ["a.b", "(x)", "[1]", "a+b", "ü n", "$"])
def test_fields_take_any_text_without_a_slash(
    touch: Callable[..., str], records_of: Callable[..., Any], value: str
) -> None:
    folder = touch(f"{value}_w1.tif", f"{value}_w2.tif", f"sub/{value}_w3.tif")
    (record,) = records_of(pattern=f"{folder}/{{well}}_w{{channel}}.tif")
    assert record["meta_well"] == value
    assert record["uri_channels"] == ["1", "2"]


def test_a_missing_channel_is_null_in_its_place(
    touch: Callable[..., str], records_of: Callable[..., Any]
) -> None:
    folder = touch("A_w1.tif", "A_w2.tif", "A_w3.tif", "B_w1.tif", "B_w3.tif")
    full, partial = records_of(pattern=f"{folder}/{{well}}_w{{channel}}.tif")
    assert None not in full["uris"]
    assert partial["uri_channels"] == ["1", "2", "3"]
    assert partial["uris"] == [f"{folder}/B_w1.tif", None, f"{folder}/B_w3.tif"]


def test_two_files_for_one_channel(touch: Callable[..., str]) -> None:
    folder = touch("A_x_w1.tif", "A_y_w1.tif")
    with pytest.raises(InputError, match="channel '1' of A") as error:
        read_records(InputConfig(pattern=f"{folder}/{{well}}_*_w{{channel}}.tif"))
    assert "A_x_w1.tif" in error.value.message
    assert "A_y_w1.tif" in error.value.message


def test_two_files_for_one_image(touch: Callable[..., str]) -> None:
    folder = touch("A_x.tif", "A_y.tif")
    with pytest.raises(InputError, match="two files match A"):
        read_records(InputConfig(pattern=f"{folder}/{{well}}_*.tif"))


def test_only_a_channel_makes_one_image(touch: Callable[..., str], records_of: Callable[..., Any]) -> None:
    folder = touch("scan_DAPI.tif", "scan_ER.tif")
    (record,) = records_of(pattern=f"{folder}/scan_{{channel}}.tif")
    assert record["uri_channels"] == ["DAPI", "ER"]
    assert record["uris"] == [f"{folder}/scan_DAPI.tif", f"{folder}/scan_ER.tif"]


def test_no_match_shows_what_is_there(touch: Callable[..., str]) -> None:
    folder = touch("x.png", "y.png")
    with pytest.raises(InputError, match="no file below") as error:
        read_records(InputConfig(pattern=f"{folder}/{{well}}.tif"))
    assert "x.png" in error.value.message
    with pytest.raises(InputError, match="does not exist"):
        read_records(InputConfig(pattern=f"{folder}/gone/{{well}}.tif"))
    touch("empty/.hidden")
    with pytest.raises(InputError, match="no file below"):
        read_records(InputConfig(pattern=f"{folder}/empty/{{well}}.tif"))


@pytest.mark.parametrize("pattern", ["plain.tif", "a/b.tif", "", "{}", "{1x}.tif", "{a b}.tif"])
def test_patterns_without_a_field(pattern: str) -> None:
    with pytest.raises(InputError, match=r"no field and no \*"):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["{a}{", "{a}}.tif", "{{a}}.tif", "{a}/{b c}.tif", "*/{}"])
def test_a_brace_that_is_no_field(pattern: str) -> None:
    with pytest.raises(InputError, match="brace that is not a field"):
        compile_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "base"),
    [
        ("/data/plates/{p}/{w}.tif", "/data/plates"),
        ("/data/p_{p}.tif", "/data"),
        ("rel/{p}.tif", "rel"),
        ("./rel/{p}.tif", "rel"),
        ("{p}.tif", "."),
        ("s3://bucket/plates/{p}.tif", "s3://bucket/plates"),
        ("s3://bucket/{p}.tif", "s3://bucket"),
        ("file:///data/{p}.tif", "/data"),
        pytest.param(
            "/{p}.tif",
            "/",
        ),
    ],
)
def test_where_a_pattern_begins_to_search(pattern: str, base: str) -> None:
    assert compile_pattern(pattern).base == base


@pytest.mark.parametrize("pattern", ["{well}.tif", "./{well}.tif", "*.tif", "sub/../{well}.tif"])
def test_relative_patterns(
    touch: Callable[..., str],
    records_of: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
) -> None:
    monkeypatch.chdir(touch("A1.tif", "sub/B1.tif"))
    (record,) = records_of(pattern=pattern)
    assert record["fingerprints"][0] is not None


def test_images_come_in_the_order_of_their_files_and_channels_in_the_order_of_their_names() -> None:
    files = [f"/d/{well}_w{channel}.tif" for well in ("B", "A") for channel in ("ER", "DAPI")]
    found = match_files(compile_pattern("/d/{well}_w{channel}.tif"), files)
    assert found.ids == ["B", "A"]
    assert found.channels == ["DAPI", "ER"]
    assert found.n_files == 4

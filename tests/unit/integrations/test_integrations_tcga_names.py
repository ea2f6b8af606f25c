"""Names of TCGA slides, slide tables of other collections, and manifests: what is read, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.barcodes import parse_barcode, read_slide_table, select_slides
from microsnoop_integrations.tcga.manifest import check_manifest, read_manifest

UUID = "0a1b2c3d-1111-2222-3333-444455556666"
DX = f"TCGA-A2-A0CM-01Z-00-DX1.{UUID.upper()}.svs"


# ---------------------------------------------------------------- barcodes


def test_all_parts_of_a_name() -> None:
    code = parse_barcode(DX)
    assert (code.site, code.participant, code.sample_type, code.vial) == ("A2", "A0CM", "01", "Z")
    assert (code.portion, code.slide_type, code.number, code.uuid) == ("00", "DX", "1", UUID)
    assert code.patient_id == "TCGA-A2-A0CM"
    assert code.sample_id == "TCGA-A2-A0CM-01"
    assert code.slide_id == "TCGA-A2-A0CM-01Z-00-DX1"


@pytest.mark.parametrize(
    "name",
    [
        DX.lower(),
        f"/data/{UUID}/{DX}",
        f"C:\\slides\\{DX}",
        "TCGA-A2-A0CM-01Z-00-DX1",
        "tcga-a2-a0cm-01z-00-dx1.tiff",
        " TCGA-A2-A0CM-01Z-00-DX1.svs ",
    ],
)
def test_case_path_suffix_and_uuid_do_not_matter(name: str) -> None:
    assert parse_barcode(name).slide_id == "TCGA-A2-A0CM-01Z-00-DX1"


@pytest.mark.parametrize("part", ["TS1", "TSA", "MS1", "BSB", "DX12"])
def test_slide_types(part: str) -> None:
    code = parse_barcode(f"TCGA-02-0001-11A-01-{part}.svs")
    assert code.slide_type + code.number == part
    assert code.sample_type == "11"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "slide.svs",
        "TCGA-A2-A0CM.svs",  # a patient
        "TCGA-A2-A0CM-01Z-00-XX1.svs",
        "TCGA-A2-A0C-01Z-00-DX1.svs",
        "TCGA-A2-A0CM-1Z-00-DX1.svs",
        "TCGA-A2-A0CM-01Z-00-DX.svs",
        "TCGA-A2-A0CM-01Z-00-DX1.0a1b.svs",
        "xTCGA-A2-A0CM-01Z-00-DX1.svs",
        "TCGA-A2-A0CM-01Z-00-DX1.doc",
        "TCGA_A2_A0CM_01Z_00_DX1.svs",
    ],
)
def test_what_is_no_barcode(name: str) -> None:
    with pytest.raises(InputError, match="bad_barcode"):
        parse_barcode(name)


def test_selection_counts_everything() -> None:
    other = f"TCGA-A2-A0CM-01Z-00-DX1.{UUID[::-1].replace('-', '')}.svs"  # a broken uuid
    names = [
        DX,
        f"b/{DX.lower()}",  # the same again
        "TCGA-B6-A0I2-01Z-00-DX1.svs",
        "TCGA-B6-A0I2-01A-01-TSA.svs",
        "TCGA-B6-A0I2-11Z-00-DX1.svs",
        "TCGA-B6-A0I2-06Z-00-DX2.svs",
        "notes.svs",
        other,
    ]
    found = select_slides(reversed(names))
    assert found.slides["slide_id"].tolist() == ["TCGA-A2-A0CM-01Z-00-DX1", "TCGA-B6-A0I2-01Z-00-DX1"]
    assert found.slides["site"].tolist() == ["A2", "B6"]
    assert found.slides["path"].tolist() == [DX, names[2]]
    assert found.counts() == {"selected": 2, "not_selected": 3, "bad_barcode": 2, "duplicate": 1}
    assert len(found.slides) + len(found.rejects) == len(names)
    assert DX in found.rejects.set_index("code").loc["duplicate", "message"]
    frozen = select_slides(names, slide_types=("TS",), sample_types=("01",))
    assert frozen.slides["slide_id"].tolist() == ["TCGA-B6-A0I2-01A-01-TSA"]
    nothing = select_slides([])
    assert nothing.counts() == {"selected": 0}
    assert list(nothing.slides.columns)[:3] == ["slide_id", "patient_id", "sample_id"]


def test_slides_of_other_collections(tmp_path: Path) -> None:
    path = tmp_path / "slides.csv"
    path.write_text("slide_id,patient_id,path,scanner\n007,1,a.svs,x\n008,1,/data/b.svs,\n")
    table = read_slide_table(path)
    assert table["slide_id"].tolist() == ["007", "008"]
    assert table["patient_id"].tolist() == ["1", "1"]
    assert table["path"].tolist() == [str(tmp_path / "a.svs"), "/data/b.svs"]
    assert table["scanner"].tolist() == ["x", None]
    for text, message in [
        ("slide_id,path\na,b\n", "no column patient_id"),
        ("slide_id,patient_id,path\n", "no rows"),
        ("slide_id,patient_id,path\na,p,x\na,q,y\n", "more than once.*'a'"),
        ("slide_id,patient_id,path\na,p,x\nb,,y\n", "patient_id is empty in row 3"),
        ("", "not a readable table"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_slide_table(path)
    with pytest.raises(InputError, match="not a readable table"):
        read_slide_table(tmp_path / "nowhere.csv")


# ---------------------------------------------------------------- manifests


def manifest(folder: Path, rows: list[tuple[str, str, bytes]]) -> Path:
    lines = ["id\tfilename\tmd5\tsize\tstate"]
    for uuid, name, data in rows:
        lines.append(f"{uuid}\t{name}\t{hashlib.md5(data).hexdigest()}\t{len(data)}\treleased")
    path = folder / "gdc_manifest.csv"  # tab-separated whatever its name
    path.write_text("\n".join(lines) + "\n")
    return path


def put(root: Path, name: str, data: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)


def test_every_row_of_a_manifest_has_one_fate(tmp_path: Path) -> None:
    slides = [f"TCGA-AA-000{i}-01Z-00-DX1.svs" for i in range(6)]
    rows = [(f"u{i}", name, f"slide {i}".encode()) for i, name in enumerate(slides)]
    rows += [("u9", slides[0], b"again"), ("u1", slides[1], b"slide 1")]
    table = read_manifest(manifest(tmp_path, rows))
    assert table["size"].dtype == "int64"
    assert table["state"].tolist() == ["released"] * 8
    root = tmp_path / "slides"
    put(root, f"u0/{slides[0]}", b"slide 0")
    put(root, slides[1], b"slide 1")  # flat
    put(root, f"u2/{slides[2]}", b"slide X")  # same size
    put(root, f"u3/{slides[3]}", b"short")
    put(root, f"u5/{slides[5]}", b"slide 5")
    put(root, "u5/annotations.txt", b"not a slide")
    put(root, "deep/er/TCGA-ZZ-0001-01Z-00-DX1.SVS", b"x")
    quick = check_manifest(table, root)
    assert set(quick.found) == {f"u{i}/{slides[i]}" for i in (0, 1, 2, 5)}
    assert quick.found[f"u1/{slides[1]}"] == root / slides[1]
    assert quick.missing == (f"u4/{slides[4]}", f"u9/{slides[0]}")
    assert quick.wrong_size == (f"u3/{slides[3]}",)
    assert quick.wrong_hash == ()
    assert quick.extra == ("deep/er/TCGA-ZZ-0001-01Z-00-DX1.SVS",)
    assert quick.duplicate_uuids == ("u1",)
    assert quick.duplicate_barcodes == ("TCGA-AA-0000-01Z-00-DX1", "TCGA-AA-0001-01Z-00-DX1")
    assert not quick.complete
    full = check_manifest(table, root, md5=True)
    assert full.wrong_hash == (f"u2/{slides[2]}",)
    assert len(full.found) == 3
    assert full.hashed
    assert full.counts() == {
        "found": 3, "missing": 2, "wrong_size": 1, "wrong_hash": 1, "extra": 1,
        "duplicate_uuids": 1, "duplicate_barcodes": 2,
    }  # fmt: skip


def test_a_complete_folder(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path, [("u", "a.svs", b"x")]))
    put(tmp_path, "u/a.svs", b"x")
    assert check_manifest(table, tmp_path, md5=True).complete
    with pytest.raises(InputError, match="not a folder"):
        check_manifest(table, tmp_path / "no")


def test_a_manifest_without_states_and_with_capital_hashes(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    md5 = hashlib.md5(b"x").hexdigest().upper()
    path.write_text(f"id\tfilename\tmd5\tsize\nu\ta.svs\t{md5}\t1\n")
    table = read_manifest(path)
    assert table["state"].tolist() == [None]
    put(tmp_path, "a.svs", b"x")
    assert check_manifest(table, tmp_path, md5=True).complete


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("u\t../a.svs\t" + "0" * 32 + "\t1", "plain names"),
        ("..\ta.svs\t" + "0" * 32 + "\t1", "plain names"),
        ("\ta.svs\t" + "0" * 32 + "\t1", "plain names"),
        ("u\ta.svs\tabc\t1", "32 hexadecimal"),
        ("u\ta.svs\t\t1", "32 hexadecimal"),
        ("u\ta.svs\t" + "0" * 32 + "\t-1", "number of bytes"),
        ("u\ta.svs\t" + "0" * 32 + "\t", "number of bytes"),
    ],
)
def test_rows_of_a_manifest_that_are_refused(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "m.txt"
    path.write_text(f"id\tfilename\tmd5\tsize\n{row}\n")
    with pytest.raises(InputError, match=f"data row 1.*{message}"):
        read_manifest(path)


def test_a_manifest_with_commas_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.txt"
    path.write_text("id,filename,md5,size\nu,a.svs,x,1\n")
    with pytest.raises(InputError, match="no column id"):
        read_manifest(path)

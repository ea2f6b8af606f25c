"""Labels joined to slides: by patient, sample and slide; what does not match, what contradicts, what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from microsnoop.core.errors import InputError
from microsnoop_integrations.tcga.barcodes import select_slides
from microsnoop_integrations.tcga.labels import join_labels, read_text_table

SLIDES = select_slides(
    [
        "TCGA-AA-0001-01Z-00-DX1.svs",
        "TCGA-AA-0001-01Z-00-DX2.svs",
        "TCGA-AA-0002-01Z-00-DX1.svs",
        "TCGA-BB-0003-01Z-00-DX1.svs",
        "TCGA-BB-0004-01Z-00-DX1.svs",
    ]
).slides


def labels(rows: list[tuple[str, str | None, str | None]], key: str = "patient_id") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[key, "hrd", "stage"], dtype=object)


def test_by_patient_every_slide_is_accounted_for() -> None:
    before = SLIDES.copy()
    table = labels(
        [
            ("tcga-aa-0001", "yes", "I"),
            ("TCGA-AA-0002", "no", None),
            ("TCGA-BB-0003 ", "no", "II"),
            ("TCGA-BB-0003", None, "II"),  # twice, without contradiction
            ("TCGA-CC-0009", "yes", "I"),
            ("TCGA-CC-0009", "no", "I"),  # contradicts itself, and nobody cares
        ]
    )
    joined, report = join_labels(SLIDES, table, level="patient", columns=["hrd", "stage"])
    assert joined["slide_id"].tolist() == [
        "TCGA-AA-0001-01Z-00-DX1",
        "TCGA-AA-0001-01Z-00-DX2",
        "TCGA-BB-0003-01Z-00-DX1",
    ]
    assert joined["hrd"].tolist() == ["yes", "yes", "no"]
    assert joined["stage"].tolist() == ["I", "I", "II"]
    assert (report.n_slides, report.n_matched) == (5, 3)
    assert report.unmatched_slides == ("TCGA-BB-0004-01Z-00-DX1",)
    assert report.unlabelled_slides == ("TCGA-AA-0002-01Z-00-DX1",)
    assert report.unmatched_labels == ("TCGA-CC-0009",)
    assert report.duplicate_keys == ("TCGA-BB-0003", "TCGA-CC-0009")
    assert report.conflicts_elsewhere == ("TCGA-CC-0009",)
    assert report.n_slides == report.n_matched + len(report.unmatched_slides) + len(report.unlabelled_slides)
    text = "\n".join(report.lines())
    assert "3 of 5 slides have labels, joined by patient" in text
    assert "TCGA-BB-0004-01Z-00-DX1" in text
    pd.testing.assert_frame_equal(SLIDES, before)


def test_an_empty_cell_is_filled_by_another_row_of_the_key() -> None:
    table = labels([("TCGA-AA-0002", None, "I"), ("TCGA-AA-0002", "no", None)])
    joined, _ = join_labels(SLIDES, table, level="patient", columns=["hrd", "stage"])
    assert joined[["hrd", "stage"]].to_numpy().tolist() == [["no", "I"]]
    assert table["hrd"].tolist() == [None, "no"]


def test_contradictions_are_refused() -> None:
    table = labels([("TCGA-AA-0001", "yes", "I"), ("TCGA-AA-0001", "no", "I")])
    with pytest.raises(InputError, match=r"label_conflict.*TCGA-AA-0001: hrd is 'yes' and 'no'"):
        join_labels(SLIDES, table, level="patient", columns=["hrd"])
    assert len(join_labels(SLIDES, table, level="patient", columns=["stage"])[0]) == 2


def test_by_sample_and_by_slide() -> None:
    table = labels([("TCGA-AA-0001-01", "yes", "I"), ("TCGA-AA-0002-06", "no", "I")], "sample_id")
    joined, report = join_labels(SLIDES, table, level="sample", columns=["hrd"])
    assert joined["slide_id"].str[-3:].tolist() == ["DX1", "DX2"]
    assert report.unmatched_labels == ("TCGA-AA-0002-06",)
    table = labels([("TCGA-AA-0001-01Z-00-DX2", "yes", "I"), ("TCGA-AA-0001-01Z-00-DX1", "no", "I")], "name")
    joined, report = join_labels(SLIDES, table, level="slide", columns=["hrd"], key="name")
    assert joined["hrd"].tolist() == ["no", "yes"]
    assert report.mixed_patients == ("TCGA-AA-0001",)


def test_a_patient_in_two_classes_is_refused_unless_slides_are_judged() -> None:
    two = SLIDES.assign(sample_id=[f"s{i}" for i in range(5)])
    table = labels([("s0", "yes", "I"), ("s1", "no", "I"), ("s2", "no", "I")], "sample_id")
    with pytest.raises(InputError, match=r"patient_conflict: 1 patients.*TCGA-AA-0001: no, yes"):
        join_labels(two, table, level="sample", columns=["hrd"])
    joined, report = join_labels(two, table, level="sample", columns=["stage", "hrd"], target="stage")
    assert len(joined) == 3
    assert report.mixed_patients == ()


def test_names_of_other_collections_keep_their_case() -> None:
    slides = pd.DataFrame({"slide_id": ["a", "A"], "patient_id": ["p", "P"]})
    table = labels([("p", "yes", "I"), ("P", "no", "I")])
    joined, _ = join_labels(slides, table, level="patient", columns=["hrd"])
    assert joined["hrd"].tolist() == ["yes", "no"]


def test_what_cannot_be_joined() -> None:
    with pytest.raises(InputError, match=r"no slide has a label.*TCGA-AA-0001.*TCGA-XX-0001"):
        join_labels(SLIDES, labels([("TCGA-XX-0001", "yes", "I")]), level="patient", columns=["hrd"])
    with pytest.raises(InputError, match="no column sample_id"):
        join_labels(SLIDES, labels([("x", "y", "z")]), level="sample", columns=["hrd"])
    with pytest.raises(InputError, match="no column tmb"):
        join_labels(SLIDES, labels([("x", "y", "z")]), level="patient", columns=["tmb"])
    with pytest.raises(InputError, match="the slides have no column patient_id"):
        join_labels(SLIDES[["slide_id"]], labels([("x", "y", "z")]), level="patient", columns=["hrd"])
    table = labels([("TCGA-AA-0001", "y", "z"), (" ", "y", "z")])
    with pytest.raises(InputError, match="empty 'patient_id' in data row 2"):
        join_labels(SLIDES, table, level="patient", columns=["hrd"])


def test_tables_are_text(tmp_path: Path) -> None:
    rows = {"patient_id": ["007", "NA", "08"], "v": ["1.50", "", "1e3"]}
    path = tmp_path / "t.csv.gz"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert read_text_table(path).to_dict("list") == {
        "patient_id": ["007", "NA", "08"],
        "v": ["1.50", None, "1e3"],
    }
    pd.DataFrame(rows).to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    assert read_text_table(tmp_path / "t.tsv")["patient_id"].tolist() == rows["patient_id"]
    pq.write_table(pa.table({"patient_id": ["7", None], "v": [1, 2]}), tmp_path / "t.parquet")
    assert read_text_table(tmp_path / "t.parquet").to_dict("list") == {
        "patient_id": ["7", None],
        "v": ["1", "2"],
    }
    with pytest.raises(InputError, match=r"no column x, y"):
        read_text_table(path, needed=["x", "patient_id", "y"])


@pytest.mark.shared
def test_the_tcga_table(shared_data: Path) -> None:
    table = read_text_table(shared_data / "tcga" / "tcga_samples.csv.gz")
    assert len(table) == 10_967
    assert table["patient_id"].nunique() == 10_953
    brca = table[table["cancer_type_acronym"] == "BRCA"]
    primary = brca[brca["sample_type"] == "Primary"]
    names = [f"{name}Z-00-DX1.svs" for name in primary["sample_id"]]
    slides = select_slides(names).slides
    assert len(slides) == primary["sample_id"].nunique() > 900
    for level in ("sample", "patient"):
        joined, report = join_labels(slides, table, level=level, columns=["subtype"])
        assert report.n_matched == len(joined) == primary["subtype"].notna().sum()
        assert report.unmatched_slides == ()
        assert len(report.unlabelled_slides) == primary["subtype"].isna().sum()
        own = primary.set_index("sample_id")["subtype"]
        assert joined["subtype"].tolist() == own[joined["sample_id"]].tolist()
    pairs = table[table["patient_id"].duplicated(keep=False)]
    both = pd.DataFrame({"slide_id": pairs["sample_id"], "patient_id": pairs["patient_id"]})
    with pytest.raises(InputError, match="label_conflict"):  # primary and metastasis of one patient
        join_labels(both, table, level="patient", columns=["fraction_genome_altered"])

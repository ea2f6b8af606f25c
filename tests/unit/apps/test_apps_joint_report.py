"""Report, tables and pictures of a joint analysis: what they say, and that markup in names stays text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from microsnoop.core.joint_config import JointConfig
from microsnoop_apps import profiling
from microsnoop_apps.joint import figures, pictures
from microsnoop_apps.joint.experiment import Experiment, run_methods
from microsnoop_apps.joint.gene_tables import GeneTables, gene_tables
from microsnoop_apps.joint.loading import load
from microsnoop_apps.joint.pictures import draw
from microsnoop_apps.joint.report import verdict, write_report
from microsnoop_apps.joint.run import facts
from microsnoop_apps.joint.tables import fixed, spread
from microsnoop_apps.profiling import PALE, PALETTE

HOSTILE = "<script>alert(1)"  # a slash cannot be in the name of a column
UNTRAINED = {"init_epochs": 1, "init_steps": 0, "n_epochs": 1, "n_steps": 0, "k": 10}
Planted = Callable[..., tuple[ad.AnnData, ad.AnnData]]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Experiment:
    """An experiment whose names all hold markup, on cells with positions."""
    folder = tmp_path_factory.mktemp("joint")
    rna, image = planted()
    rna.obs[f"{HOSTILE} kind"] = rna.obs["kind"].astype(str) + " | <b>&"
    rna.var_names = [f"<i>{name}" for name in rna.var_names]
    rna.obsm["spatial"] = np.random.default_rng(0).random((96, 2)) * [400, 100]
    rna.X[0] = 0
    image.uns["microsnoop"] = {
        "encoder": f"{HOSTILE} net",
        "encoder_sha256": "abc",
        "encoder_licence": "<u>free",
    }
    rna.write_h5ad(folder / "rna.h5ad")
    image.write_h5ad(folder / "image.h5ad")
    config = JointConfig.model_validate(
        {
            "title": f"{HOSTILE} title", "notes": [f"{HOSTILE} note"], "labels": [f"{HOSTILE} kind"],
            "input": {"rna": str(folder / "rna.h5ad"), "image": str(folder / "image.h5ad")},
            "muse": UNTRAINED, "seeds": 2, "shuffles": 1, "bootstrap": 20, "permutations": 20,
            "methods": ["transcripts", "images", "concat", "wnn", "muse", "shuffled"],
            "genes": {"groups": ["<i>g01"], "top": 3},
        }
    )  # fmt: skip
    loaded = load(config, root="nowhere")
    without = config.model_copy(update={"methods": [name for name in config.methods if name != "wnn"]})
    found = run_methods(loaded, without)
    return replace(found, config=config, failed={"wnn": f"not installed ({HOSTILE})"})


@pytest.fixture(scope="module")
def genes(done: Experiment) -> GeneTables:
    return gene_tables(done)


@pytest.fixture
def flat_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two coordinates in place of a UMAP, which takes half a minute to compile."""
    monkeypatch.setattr(pictures, "umap", lambda latent, *, seed: latent[:, :2].astype(float) + seed)


@pytest.mark.usefixtures("flat_maps")
def test_the_report_holds_everything_and_obeys_nothing(
    done: Experiment, genes: GeneTables, tmp_path: Path
) -> None:
    drawn, maps = draw(done, tmp_path)
    assert [picture.path.name for picture in drawn] == [
        "maps.png",
        "agreement.png",
        "places.png",
        "history.png",
    ]
    assert {len(xy) for xy in maps.values()} == {95}
    report = write_report(done, genes, drawn, provenance=facts(done), out=tmp_path)
    page, text = report.read_text(), (tmp_path / "report.md").read_text()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "<script>" not in text
    assert page.count("&lt;script&gt;") > 10
    assert "<p>&lt;script&gt;alert(1) note</p>" in page
    for name in ("transcripts", "images", "concat", "WNN", "MUSE", "MUSE, shuffled pairs"):
        assert f">{name}<" in page
    assert "not installed (" in page
    assert "96 cells = 95 paired + 1 rejected (empty_cell 1)" in page
    assert "cell000" in page
    assert "&lt;i&gt;g01" in page
    headings = (
        "What to be careful about", "Stability", "What each modality is worth", "Genes that follow the images",
        "The cells in each space", "How MUSE learned", "Cells that were left out", "Provenance",
    )  # fmt: skip
    for heading in headings:
        assert heading in page
    assert page.count("data:image/png;base64,") == 4


def test_the_verdict_is_plain_about_what_is_best(done: Experiment) -> None:
    text, pairing = verdict(done)
    assert text.startswith(f"ARI with {HOSTILE} kind, by k-means: ")
    assert "shuffled" not in text
    assert "MUSE by k-means, mean and range: right pairs " in text
    assert "Do the modalities share anything?" in pairing
    label = f"{HOSTILE} kind"

    def with_muse(kmeans: float, default: float) -> str:
        score = done.muse.labels[label]
        best = replace(
            score, kmeans=replace(score.kmeans, ari=kmeans), default=replace(score.default, ari=default)
        )
        muse = replace(done.muse, labels={label: best})
        return verdict(replace(done, methods={**done.methods, "muse": muse}))[0]

    assert "MUSE agrees best. " in with_muse(2.0, 2.0)
    assert "by one of the two only" in with_muse(2.0, -1.0)
    assert "MUSE does not agree best here: " in with_muse(-1.0, -1.0)


def test_numbers_are_written_for_people() -> None:
    assert [fixed(value) for value in (0.126, -0.001, np.nan)] == ["0.13", "0.00", "–"]
    assert spread([0.1, 0.3]) == "0.20 (0.10 to 0.30)"


@pytest.mark.usefixtures("flat_maps")
def test_of_many_cells_some_are_mapped_and_the_caption_says_so(
    done: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pictures, "MOST_MAPPED", 50)
    sizes: list[int] = []
    monkeypatch.setattr(pictures, "umap", lambda latent, *, seed: sizes.append(len(latent)) or latent[:, :2])
    drawn, maps = draw(done, tmp_path)
    assert sizes == [50] * 5
    assert maps == {}
    assert "50 of 95 cells, drawn at random" in drawn[0].caption


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Collect every figure that is written."""
    seen: list[Figure] = []
    save = profiling.Figure.savefig

    def spy(figure: Figure, *arguments: Any, **keywords: Any) -> None:
        seen.append(figure)
        save(figure, *arguments, **keywords)

    monkeypatch.setattr(profiling.Figure, "savefig", spy)
    return seen


def test_spaces_stand_side_by_side_in_the_same_colours(
    drawing: list[Figure], tmp_path: Path, rng: Any
) -> None:
    places = {name: rng.normal(size=(30, 2)) for name in ("A", "B", "C")}
    names = np.array([*["x"] * 10, *["y"] * 19, None], object)
    colours = {"kind": names, "weight": rng.random(30)}
    notes = {("kind", "B"): "silhouette 0.10"}
    path = figures.spaces(places, colours, tmp_path / "maps.png", notes=notes)
    again = path.read_bytes()
    figures.spaces(places, colours, path, notes=notes)
    assert path.read_bytes() == again
    axes = np.array(drawing[0].axes).reshape(2, 4)
    assert [one.get_title() for one in axes[0]] == ["A", "B", "C", ""]
    assert [one.get_ylabel() for one in axes[:, 0]] == ["kind", "weight"]
    assert axes[0, 1].get_xlabel() == "silhouette 0.10"
    drawn = [np.asarray(axes[0, i].collections[0].get_offsets()) for i in range(3)]
    assert sorted(map(tuple, drawn[1])) == sorted(map(tuple, places["B"]))
    # the same cell has the same colour in every space
    tables = []
    for panel in axes[0, :2]:
        points = panel.collections[0]
        colours_of = zip(points.get_offsets(), points.get_facecolors(), strict=True)
        tables.append({tuple(xy): tuple(colour) for xy, colour in colours_of})
    for cell in range(30):
        first, second = (tables[i][tuple(places[name][cell])] for i, name in enumerate("AB"))
        assert first == second
        expected = PALE if names[cell] is None else PALETTE["xy".index(names[cell])]
        assert first[:3] == pytest.approx(to_rgb(expected))
    legend = axes[0, 3].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["x (10)", "y (19)", "no label (1)"]


def test_tissue_runs_downwards_in_one_scale(drawing: list[Figure], tmp_path: Path) -> None:
    figures.tissue(np.array([[0.0, 0], [4, 1]]), {"kind": ["a", "b"]}, tmp_path / "places.png")
    axes = drawing[0].axes[0]
    assert axes.yaxis_inverted()
    assert axes.get_aspect() == 1


def test_history_marks_phases_and_new_labels(drawing: list[Figure], tmp_path: Path) -> None:
    terms = {"loss": [4.0, 3, 2, 1], "triplet_rna": [np.nan, 2, 1, 1]}
    figures.history(terms, ["reconstruct", "triplets", "main", "main"], [2, 3], tmp_path / "history.png")
    axes = drawing[0].axes[0]
    assert [patch.get_x() for patch in axes.patches] == [0.5, 1.5, 2.5]
    assert [line.get_xdata()[0] for line in axes.lines[:2]] == [2.5, 3.5]
    np.testing.assert_array_equal(axes.lines[2].get_xydata(), [[1, 4], [2, 3], [3, 2], [4, 1]])
    legend = [text.get_text() for text in drawing[0].legends[0].get_texts()]
    assert legend == ["reconstruct", "triplets", "main", "labels renewed"]


def test_agreement_has_a_bar_a_method_and_says_what_is_missing(drawing: list[Figure], tmp_path: Path) -> None:
    rows = [("images", 0.2, 0.1, 0.3), ("WNN", np.nan, np.nan, np.nan), ("MUSE", 0.5, 0.4, 0.6)]
    figures.agreement({"kind": rows}, tmp_path / "agreement.png", joint="MUSE")
    axes = drawing[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.5]
    assert [text.get_text() for text in axes.texts] == ["not computed"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["images", "WNN", "MUSE"]
    assert axes.yaxis_inverted()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda path: figures.spaces({}, {"a": [1]}, path),
        lambda path: figures.spaces({"A": np.zeros((3, 2))}, {"a": ["x"]}, path),
        lambda path: figures.tissue(np.zeros((3, 2)), {"a": ["x"]}, path),
        lambda path: figures.tissue(np.zeros((3, 2)), {}, path),
        lambda path: figures.history({}, [], [], path),
        lambda path: figures.history({"loss": [1.0]}, ["a", "b"], [], path),
        lambda path: figures.agreement({}, path),
        lambda path: figures.agreement({"a": [("x", 0, 0, 0)], "b": [("y", 0, 0, 0)]}, path),
    ],
)
def test_pictures_refuse_what_does_not_fit(wrong: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"need|got"):
        wrong(tmp_path / "wrong.png")
    assert not (tmp_path / "wrong.png").exists()

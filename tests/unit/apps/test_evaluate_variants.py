"""Variants of a recipe: one set of rows, several ways to make a vector of an image, every row accounted for."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from microsnoop.core.config import EmbedConfig, digest
from microsnoop.core.config_file import load_settings
from microsnoop.core.errors import RunError
from microsnoop.core.evaluate_config import EvaluateConfig, RecipeEmbedConfig
from microsnoop.core.schema import ROW_FIELDS, result_schema
from microsnoop.io.labelled import read_labelled, write_input
from microsnoop.io.manifest import read_records
from microsnoop.io.store import RunStore
from microsnoop.io.writer import RunWriter
from microsnoop.ops.aggregate import reduce_rows
from microsnoop.pipelines.progress import Summary
from microsnoop_apps.evaluation import figures
from microsnoop_apps.evaluation import run as evaluation
from microsnoop_apps.evaluation import sources as source_module
from microsnoop_apps.evaluation.recipes import load_recipes
from microsnoop_apps.evaluation.scores import SetScores
from microsnoop_apps.evaluation.sources import encoder_sources

ROOT = Path(__file__).parents[3]
Run = Callable[..., tuple[int, str, str]]

N, EMPTY, BROKEN = 24, (2, 9), 5  # fields; without any cell; unreadable
CHANNELS, FEATURES_DIM = ["a", "b"], 68 + 1
VARIANTS = {
    "rescale": {"mode": "rescale"},
    "crop mean": {"mode": "crop"},
    "tile mean": {"mode": "tile"},
    "crop mean_std": {"mode": "crop", "aggregate": "mean_std"},
}


def recipe(**changes: Any) -> EvaluateConfig:
    base = {"title": "t", "input": {"manifest": "fields.csv"}, "label": "kind", "embed": {"input_px": 32}}
    return EvaluateConfig.model_validate(base | changes)


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed": {"aggregate": "median"}}, "for modes tile and crop, not rescale"),
        ({"embed": {"mode": "crop", "aggregate": "max"}}, "Input should be 'mean'"),
        ({"variants": {"a/b": {}}}, "letters, digits, spaces"),
        ({"variants": {"": {}}}, "letters, digits, spaces"),
        ({"variants": {"a  b": {}, "a b": {}}}, "differ only in spaces"),
        ({"variants": {"x": {"tile": {"overlap": 0.9}}}}, r"variants: x\.tile\.overlap: Input should be less"),
        ({"variants": {"x": {"surplus": 1}, "y": {"seed": -1}}}, r"x\.surplus: Extra.*; y\.seed: Input"),
        ({"variants": {"x": {"aggregate": "modz"}}}, "x: .*for modes tile and crop, not rescale"),
        ({"input": None, "anndata": {"m": "m.h5ad"}, "variants": {"x": {}}}, "variants need input"),
        ({"input": {"manifest": "m.csv", "cells": "c.csv"}, "embed": {"mode": "crop"}}, "finds the cells itself"),
        (
            {"input": {"manifest": "m.csv", "cells": "c.csv"}, "variants": {"x": {"mode": "crop"}}},
            "finds the cells itself",
        ),
        ({"input": {"folder": "f", "masks": "m"}}, "input.masks is for mode crop"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(**changes)


def test_a_variant_is_laid_over_embed_key_by_key() -> None:
    cfg = recipe(
        embed={"input_px": 64, "crop": {"ratio": 1.5, "max_cells": 9}, "normalise": {"pad": "reflect"}},
        variants={
            "one": {},
            "two": {"mode": "crop", "crop": {"max_cells": 3}, "normalise": {"clip": [0, 2]}},
            "three": {"crop": {"ratio": None, "window_um": 7.0}},
        },
    )
    one, two, three = cfg.embeddings().values()
    assert one == cfg.embed
    assert (two.crop.ratio, two.crop.max_cells, two.normalise.pad, two.input_px) == (1.5, 3, "reflect", 64)
    assert two.normalise.clip == (0, 2)
    assert (three.crop.ratio, three.crop.window_um, three.crop.max_cells) == (None, 7.0, 9)
    # what nobody set stays unset: an embedding run decides it
    assert "seed" not in two.model_dump(exclude_unset=True)
    assert recipe().embeddings() == {"": recipe().embed}


def test_finished_runs_of_older_recipes_are_found_again() -> None:
    """Folders of runs as they were named before crop, segment, aggregate and tile.foreground existed."""
    before = {"jurkat-7": "2d6f53bc7d57", "jurkat-5": "2d6f53bc7d57", "rbc12-cells": "7dbca11eeee1"}
    before |= {"rbc-disease": "7dbca11eeee1"}
    for name, folder in before.items():
        cfg = load_settings(ROOT / "configs" / "evaluate" / f"{name}.yaml", EvaluateConfig)
        assert digest(["rows", cfg.embed.run_settings()])[:12] == folder
        assert list(evaluation._runs(cfg, "rows")) == [folder]


def test_a_run_is_named_by_what_decides_its_rows() -> None:
    def key(**settings: Any) -> str:
        return digest(RecipeEmbedConfig.model_validate(settings).run_settings())

    crop = key(mode="crop")
    assert crop == key(mode="crop", aggregate="median") == key(mode="crop", segment={"channel": None})
    different = [key(), key(mode="tile"), crop, key(mode="crop", crop={"ratio": 3}), key(seed=1)]
    different += [key(mode="crop", segment={"channel": "green"}), key(mode="tile", tile={"foreground": 0.2})]
    different += [key(mode="tile", tile={"foreground": 0.2}, segment={"channel": "green"})]
    assert len(set(different)) == len(different)
    # what mode rescale does not use does not rename its runs
    assert key() == key(crop={"ratio": 3}, segment={"channel": "green"})


def test_masks_reach_the_runs(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for name in "abcd":
            np.save(tmp_path / folder / f"{name}.npy", np.zeros((8, 12), np.uint16))
    cfg = recipe(
        input={"pattern": "images/{kind}.npy", "masks": "masks/{kind}.npy", "mask_kind": "labels", "block_px": 99},
        classes={"ab": ["a", "b"]},
        exclude=["d"],
        embed={"mode": "crop"},
    )  # fmt: skip
    inputs, rows = read_labelled(cfg, root=str(tmp_path))
    assert cfg.input is not None
    written, _ = write_input(inputs, rows, cfg.input, folder=tmp_path / "inputs")
    assert (written.mask_kind, written.block_px, written.masks) == ("labels", 99, None)
    before = dict(zip(*(inputs.records[n].to_pylist() for n in ("image_id", "record_key")), strict=True))
    records = read_records(written).records
    assert records["mask_uri"].to_pylist() == [str(tmp_path / "masks" / f"{name}.npy") for name in "abc"]
    assert records["record_key"].to_pylist() == [before[name] for name in records["image_id"].to_pylist()]


# ---------------------------------------------------------------- runs, without Ray and without a network


def vectors_of(image: int, mode: str, number: int, width: int) -> NDArray[np.float32]:
    """Any two rows differ; the kind of an image is easy to see."""
    seed = (image, ["rescale", "tile", "crop"].index(mode), number, width)
    return (np.random.default_rng(seed).normal(size=width) + 3 * np.eye(width)[image % 3]).astype(np.float32)


def n_members(image: int, mode: str) -> int:
    return 1 if mode == "rescale" else 4 if mode == "tile" else 0 if image in EMPTY else 3 + image % 4


def fake_rows(cfg: EmbedConfig, width: int) -> list[dict[str, Any]]:
    """What the pipeline makes of fields f0, f1, ..: one cell at the border each, two fields without any cell."""
    rows: list[dict[str, Any]] = []
    for name in read_records(cfg.input).records["image_id"].to_pylist():
        image = int(name[1:])
        row: dict[str, Any] = {"image_id": name, "uris": [f"/d/{name}.tif"], "flags": [], "sample_index": 0}
        whole = {**row, "obs_id": name, "parent_id": name, "kind": "image"}
        if image == BROKEN:
            rows.append({**whole, "stage": "read", "code": "decode_error", "message": "no"})
            continue
        if cfg.mode == "crop" and image in EMPTY:
            rows.append({**whole, "stage": "read", "code": "empty_mask", "message": "no"})
            continue
        for k in range(n_members(image, cfg.mode)):
            vector = vectors_of(image, cfg.mode, k, width).tolist()
            member = {**row, "sample_index": k, "vectors": vector}
            if cfg.mode == "crop":
                member |= {
                    "obs_id": f"{name}#{k}",
                    "parent_id": f"{name}#{k}",
                    "kind": "cell",
                    "label": str(k),
                }
            elif cfg.mode == "tile":
                member |= {"obs_id": f"{name}@{k},0", "parent_id": name, "kind": "tile"}
            else:
                member |= {"obs_id": name, "parent_id": name, "kind": "image"}
            rows.append(member)
        if cfg.mode == "crop":
            border = {"obs_id": f"{name}#99", "parent_id": f"{name}#99", "kind": "cell", "label": "99"}
            rows.append({**row, **border, "stage": "read", "code": "border_cell", "message": "no"})
    return rows


class FakePipeline:
    """Stands in for ``embed_with_progress``: writes a real run directory, and remembers what was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str | None]] = []
        self.configs: list[EmbedConfig] = []

    def __call__(self, cfg: EmbedConfig, *, fork_from: str | None = None, debug: bool = False) -> Summary:
        self.calls.append((cfg.encoder, cfg.mode, fork_from))
        self.configs.append(cfg)
        store = RunStore(Path(cfg.run_dir))
        dim = FEATURES_DIM if cfg.encoder == "features" else 4
        rows = fake_rows(cfg, len(CHANNELS) * dim)
        if not store.exists:
            self._write(store, cfg, rows, dim)
        counts = store.counts()
        return Summary(run_dir=str(store.path), status="complete", expected=len(rows), **counts)

    def _write(self, store: RunStore, cfg: EmbedConfig, rows: list[dict[str, Any]], dim: int) -> None:
        store.create()
        store.write_inputs(read_records(cfg.input).records, None)
        identity = {"channels": CHANNELS, "dim": dim, "precision": "fp32", "processing": cfg.processing()}
        card = {"name": cfg.encoder, "weights_sha256": "cd" * 32, "trained": False, "licence": "none"}
        store.write_info(
            {"identity": identity, "encoder": card, "config": {"fuse": "concat"}, "versions": {"python": "3"}}
        )
        writer = RunWriter(store, channels=CHANNELS, dim=dim, rows_per_part=7, flush_seconds=1e9)
        blank = {name: None for name, _ in ROW_FIELDS}
        shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
        schema = result_schema(len(CHANNELS) * dim)
        writer.append(pa.Table.from_pylist([{**blank, **row} for row in shuffled], schema=schema))
        writer.flush()


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr(source_module, "embed_with_progress", fake)
    monkeypatch.setattr(evaluation, "cluster", lambda *a, **k: nullcontext())
    for module in (evaluation, source_module):
        monkeypatch.setattr(module, "BASELINES", ("features",))
    return fake


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    """A table of fields of three kinds, in no order, and the folder for what comes out."""
    order = np.random.default_rng(3).permutation(N)
    lines = [f"f{i},f{i}.tif,{'xyz'[i % 3]}" for i in order]
    (tmp_path / "fields.csv").write_text("\n".join(["image_id,uri,kind", *lines]) + "\n")
    return tmp_path


def write_recipe(folder: Path, **changes: Any) -> Path:
    import yaml

    path = folder / "modes.yaml"
    base = {"title": "t", "input": {"manifest": "fields.csv"}, "label": "kind", "folds": 3}
    base |= {"embed": {"input_px": 32}, "variants": VARIANTS}
    path.write_text(yaml.safe_dump(base | changes, sort_keys=False))
    return path


@pytest.fixture
def evaluate(run: Run, fields: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, SetScores]]:
    """Evaluate the recipe of these fields; return what was printed, and the scores."""
    kept: list[SetScores] = []
    original = evaluation.score_set
    monkeypatch.setattr(evaluation, "score_set", lambda *a, **k: kept.append(original(*a, **k)) or kept[-1])

    def command(*more: str, **changes: Any) -> tuple[str, SetScores]:
        path = write_recipe(fields, **changes)
        arguments = ("evaluate", path, "--encoder", "pixels16", "--data", fields, "--out", fields / "out")
        code, text, err = run(*arguments, *more)
        assert code == 0, err
        return text, kept[-1]

    return command


def images_input(folder: Path) -> Any:
    return recipe(input={"manifest": str(folder / "fields.csv")}).input


def test_variants_that_differ_in_aggregate_share_one_run(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]], fields: Path
) -> None:
    text, _ = evaluate()
    # each run once; baselines only in the first variant; nothing is taken over from a run of another mode
    assert pipeline.calls == [
        ("pixels16", "rescale", None), ("pixels16", "crop", None), ("pixels16", "tile", None),
        ("features", "rescale", None),
    ]  # fmt: skip
    assert len({cfg.run_dir for cfg in pipeline.configs}) == 4
    assert "-- modes: pixels16, crop mean, crop mean_std\n" in text
    # another run of the same settings is a relative, whatever it is aggregated to
    evaluate("--max-per-class", "6", variants={"crop modz": {"mode": "crop", "aggregate": "modz"}})
    crops = Path(pipeline.configs[1].run_dir)
    assert pipeline.calls[4] == ("pixels16", "crop", str(crops))
    files = {path.name for path in crops.parent.glob("*.h5ad")}
    assert files == {f"{crops.name}-{how}.h5ad" for how in ("mean", "mean_std")}


@pytest.mark.parametrize("mode", ["tile", "crop"])
@pytest.mark.parametrize("how", ["mean", "median", "mean_std", "trimmed", "modz"])
def test_the_vector_of_a_field_is_the_aggregate_of_its_own_members(
    pipeline: FakePipeline, fields: Path, mode: str, how: str
) -> None:
    embeds = {"v": RecipeEmbedConfig.model_validate({"mode": mode, "aggregate": how})}
    (source,) = encoder_sources(
        "pixels16", embeds, images_input(fields), folder=fields / "runs", execution={}, debug=False
    )
    empty = {f"f{i}" for i in (*EMPTY, BROKEN)} if mode == "crop" else {f"f{BROKEN}"}
    assert set(source.empty) == empty
    assert set(source.ids) == {f"f{i}" for i in range(N)} - empty
    assert np.isfinite(source.vectors).all()
    for name, vector in zip(source.ids, source.vectors, strict=True):
        image = int(name[1:])
        members = np.stack([vectors_of(image, mode, k, 8) for k in range(n_members(image, mode))])
        np.testing.assert_allclose(vector, reduce_rows(members, how=how).ravel(), rtol=1e-5, atol=1e-6)


def test_features_hold_every_number_once_also_where_two_statistics_stand_side_by_side(
    pipeline: FakePipeline, fields: Path
) -> None:
    embeds = {
        how: RecipeEmbedConfig.model_validate({"mode": "crop", "aggregate": how})
        for how in ("mean", "mean_std")
    }
    mean, both = encoder_sources(
        "features", embeds, images_input(fields), folder=fields / "runs", execution={}, debug=False
    )
    once = 2 * FEATURES_DIM - 1  # the correlation of the two channels stands in both planes
    assert (mean.vectors.shape[1], both.vectors.shape[1]) == (once, 2 * once)
    np.testing.assert_array_equal(both.vectors[:, :once], mean.vectors)
    assert mean.scaled
    assert len(pipeline.calls) == 1


def test_a_field_without_cells_is_left_out_of_all_variants_and_counted(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]], fields: Path
) -> None:
    text, result = evaluate()
    n = N - len(EMPTY) - 1
    assert (
        f"{N} rows = {n} scored + 1 not embedded by every encoder + {len(EMPTY)} without any embedded cell or tile"
        in text
    )
    assert set(result.rows.ids) == {f"f{i}" for i in range(N) if i not in (*EMPTY, BROKEN)}
    members = [n_members(i, "crop") for i in range(N) if i not in (*EMPTY, BROKEN)]
    assert (
        f"note: pixels16, crop mean, crop mean_std: {sum(members)} cells of {n} images (median "
        f"{np.median(members):g}, 3 to 6 an image); 3 images without any; rejected: border_cell {n}, empty_mask 2, "
        "decode_error 1" in text
    )
    assert "note: left out without any embedded cell or tile: x 1, z 1" in text  # fields 9 and 2
    assert text.count("note: pixels16, crop mean") == 1  # once a run, not once a variant
    # cells are no rows of this set: only what is rejected of whole images stands beside it
    assert "rejected by pixels16, rescale: decode_error 1; features, rescale: decode_error 1\n" in text
    report = (fields / "out" / "report.md").read_text()
    assert "left out without any embedded cell or tile: x 1, z 1" in report
    predictions = pq.read_table(fields / "out" / "predictions.parquet").to_pandas()
    of_each = predictions.groupby(["encoder", "variant", "level"])
    assert {tuple(part["obs_id"]) for _, part in of_each} == {result.rows.ids}
    folds = predictions.query("level == 'folds'").groupby(["encoder", "variant"])["fold"]
    assert len({tuple(fold) for _, fold in folds}) == 1


def test_a_class_that_is_gone_is_named(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]], fields: Path
) -> None:
    (fields / "fields.csv").write_text(
        (fields / "fields.csv").read_text().replace("f2.tif,z", "f2.tif,rare").replace("f9.tif,x", "f9.tif,rare")
    )  # fmt: skip
    text, result = evaluate("--no-baselines", variants={"whole": {}, "cells": {"mode": "crop"}})
    assert result.classes == ("x", "y", "z")
    assert "note: no row is left of rare" in text


def test_names_comparisons_and_columns(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]], fields: Path
) -> None:
    text, result = evaluate()
    names = ["rescale", "crop mean", "crop mean_std", "tile mean"]
    tested = [f"pixels16, {name}" for name in names]
    assert result.names == [*tested, "features, rescale"]
    assert list(result.tested) == tested
    further = [(a, "pixels16, rescale") for a in tested[1:]]
    assert [(a, b) for classifier, a, b, _ in result.comparisons if classifier == "knn"] == [
        ("pixels16, rescale", "features, rescale"), *further,
    ]  # fmt: skip
    assert re.search(r"^ +pixels16, crop mean_std \(cdcdcdcdcdcd\) +\d+\.\d ± ", text, re.MULTILINE)

    out = fields / "out"
    with (out / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["encoder"], row["embedding"]) for row in rows] == [
        *zip(tested, names, strict=True), ("features, rescale", "rescale"),
        ("chance: majority", ""), ("chance: stratified", ""),
    ]  # fmt: skip
    assert {(row["n"], row["classes"]) for row in rows} == {("21", "3")}
    metrics = pq.read_table(out / "metrics.parquet").to_pandas()
    p = metrics.query("encoder == 'pixels16, tile mean' and metric == 'mcnemar_p'")
    assert set(p["variant"]) == {"knn against pixels16, rescale", "logistic against pixels16, rescale"}
    assert set(p["embedding"]) == {"tile mean"}
    report = (out / "report.md").read_text()
    assert 'All variants: `{"input_px": 32}`' in report
    assert '| crop mean_std | `{"mode": "crop", "aggregate": "mean_std"}` |' in report
    links = re.findall(r"\]\(([^)]+)\)", report)
    assert "confusion-modes-pixels16-crop-mean_std.png" in links
    assert len(set(links)) == len(links) == 1 + len(tested)
    for link in links:
        assert (out / link).stat().st_size > 5000, link


def test_a_baseline_under_test_gets_every_variant(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]]
) -> None:
    _, result = evaluate("--encoder", "features", variants={"a": {}, "b": {"seed": 1}})
    assert result.names == ["pixels16, a", "pixels16, b", "features, a", "features, b"]
    assert list(result.tested) == result.names
    pairs = [(a, b) for classifier, a, b, _ in result.comparisons if classifier == "knn"]
    assert pairs == [
        ("pixels16, a", "features, a"), ("pixels16, b", "pixels16, a"),
        ("features, a", "pixels16, a"), ("features, b", "features, a"),
    ]  # fmt: skip


def test_without_variants_everything_is_called_as_before(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]], fields: Path
) -> None:
    text, result = evaluate(variants={})
    assert result.names == ["pixels16", "features"]
    assert [(a, b) for _, a, b, _ in result.comparisons] == [("pixels16", "features")] * 2
    assert (fields / "out" / "confusion-modes-pixels16.png").is_file()
    assert "variant" not in (fields / "out" / "report.md").read_text().split("## How to read")[0]
    assert f"{N} rows = {N - 1} scored + 1 not embedded by every encoder; rejected by pixels16" in text
    run_dir = Path(pipeline.configs[0].run_dir)
    assert run_dir.with_name(f"{run_dir.name}.h5ad").is_file()


def test_cells_alone_can_be_scored_without_variants(
    pipeline: FakePipeline, evaluate: Callable[..., tuple[str, SetScores]]
) -> None:
    text, result = evaluate("--no-baselines", variants={}, embed={"mode": "crop", "aggregate": "modz"})
    assert result.names == ["pixels16"]
    assert f"{N} rows = 21 scored + 3 without any embedded cell or tile\n" in text


def test_an_interrupted_run_ends_the_evaluation(
    pipeline: FakePipeline, fields: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeds = {"v": RecipeEmbedConfig(mode="crop")}
    for status, error in (("interrupted", KeyboardInterrupt), ("incomplete", RunError)):
        monkeypatch.setattr(
            source_module, "embed_with_progress", lambda *a, s=status, **k: Summary(run_dir="r", status=s)
        )
        with pytest.raises(error):
            encoder_sources(
                "pixels16", embeds, images_input(fields), folder=fields / "r", execution={}, debug=False
            )


def test_bars_can_be_told_apart_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks: list[tuple[str, str]] = []
    monkeypatch.setattr(figures, "_bars", lambda axes, shown, width, *look: looks.append(look))
    chance = SimpleNamespace(scores=SimpleNamespace(balanced_accuracy=0.2))
    names = [f"pixels16, v{i}" for i in range(12)]
    result = SimpleNamespace(name="modes", names=names, truth=range(9), find=lambda *a: chance)
    figures.bar_chart([result], tmp_path / "x.png")  # type: ignore[list-item]
    assert len(looks) == 2 * 12
    assert len(set(looks)) == 12


# ---------------------------------------------------------------- the shipped recipe


def test_recipes_with_variants_come_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert "rbc-disease-modes" not in load_recipes([], overrides={})
    assert list(load_recipes(["rbc-disease-modes"], overrides={})) == ["rbc-disease-modes"]


def test_the_shipped_modes_need_three_runs() -> None:
    cfg = load_settings(ROOT / "configs" / "evaluate" / "rbc-disease-modes.yaml", EvaluateConfig)
    runs = [list(embeds) for embeds in evaluation._runs(cfg, "rows").values()]
    aggregates = ("mean", "median", "mean_std", "trimmed", "modz")
    assert runs == [
        ["rescale"],
        ["tile mean", "tile mean_std"],
        [f"crop {aggregate}" for aggregate in aggregates],
    ]
    for name, embed in cfg.embeddings().items():
        assert name == " ".join([embed.mode, *([embed.aggregate] if embed.mode in ("tile", "crop") else [])])
        assert embed.normalise.pad == "edge_median"
    # the reference is what rbc-disease embeds: its runs are the same
    whole = load_settings(ROOT / "configs" / "evaluate" / "rbc-disease.yaml", EvaluateConfig)
    assert next(iter(evaluation._runs(cfg, "rows"))) == next(iter(evaluation._runs(whole, "rows")))

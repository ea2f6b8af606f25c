"""What a joint experiment measures and warns of: methods, missing packages, wrong pairs, seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score

from microsnoop.core.errors import ConfigError, JointError, MissingDependency
from microsnoop.core.joint_config import JointConfig
from microsnoop.correction.base import Finding
from microsnoop.ops.intervals import Interval
from microsnoop_apps.joint import experiment as module
from microsnoop_apps.joint.experiment import Experiment, Runs, run_methods
from microsnoop_apps.joint.gene_tables import check_genes, gene_tables
from microsnoop_apps.joint.loading import Loaded, load
from microsnoop_apps.joint.tables import (
    LABEL_HEADER,
    RUNS_HEADER,
    SCORES_HEADER,
    label_rows,
    run_rows,
    score_rows,
    space_rows,
    stability_table,
)
from microsnoop_apps.joint.verdicts import judge, ranking
from microsnoop_integrations.graph_clusters import kmeans
from microsnoop_integrations.joint.measures import Stability

TINY = {"init_epochs": 1, "init_steps": 60, "n_epochs": 1, "n_steps": 60, "k": 10}
QUICK: dict[str, Any] = {
    "muse": TINY, "seeds": 2, "shuffles": 2, "bootstrap": 50, "permutations": 99,
    "methods": ["transcripts", "images", "concat", "muse", "shuffled"],
}  # fmt: skip
UNTRAINED = {"init_epochs": 1, "init_steps": 0, "n_epochs": 1, "n_steps": 0, "k": 10}
Planted = Callable[..., tuple[ad.AnnData, ad.AnnData]]


def cells(folder: Path, pair: tuple[ad.AnnData, ad.AnnData], **settings: Any) -> tuple[Loaded, JointConfig]:
    pair[0].write_h5ad(folder / "rna.h5ad")
    pair[1].write_h5ad(folder / "image.h5ad")
    given = {"rna": str(folder / "rna.h5ad"), "image": str(folder / "image.h5ad")}
    config = JointConfig.model_validate(QUICK | {"input": given} | settings)
    return load(config, root="nowhere"), config


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Experiment:
    loaded, config = cells(
        tmp_path_factory.mktemp("joint"), planted(), labels=["kind"], groups="field",
        genes={"groups": ["g00", "g25"], "top": 5},
    )  # fmt: skip
    return run_methods(loaded, config)


def test_each_modality_misses_a_type_and_both_together_do_not(done: Experiment) -> None:
    scores = dict(ranking(done, "kind"))
    assert set(scores) == {"transcripts", "images", "concat", "muse"}
    assert max(scores["transcripts"], scores["images"]) < 0.8
    assert scores["muse"] > 0.9
    assert scores["concat"] > 0.9
    assert np.mean(done.runs["shuffled"].values["kind"]) < 0.7
    assert done.pairing.p < 0.05
    wrong = {"null_not_beaten", "pairing_not_seen", "single_modality_better", "untrained_encoder"}
    assert not wrong & {finding.code for finding in done.findings}


def test_scores_are_those_of_the_latent_that_is_kept(done: Experiment) -> None:
    known = done.loaded.labels[0].values.astype(str)
    for scored in done.methods.values():
        found = scored.labels["kind"]
        latent = scored.found.latent
        assert found.kmeans.ari == pytest.approx(adjusted_rand_score(known, kmeans(latent, 4, seed=0)))
        assert found.default.ari == pytest.approx(adjusted_rand_score(known, scored.found.labels))
        assert found.silhouette.mean == pytest.approx(silhouette_score(latent, known), abs=1e-5)
        assert found.best.ari >= found.default.ari
        assert found.kmeans.ari_interval.method == "bootstrap-groups"
        assert (found.n, found.n_labels) == (96, 4)


def test_runs_differ_by_seed_and_wrong_pairs_by_the_pairing(done: Experiment) -> None:
    ours, null = done.runs["muse"], done.runs["shuffled"]
    assert (ours.stability.n_runs, null.stability.n_runs) == (2, 2)
    assert ours.values["kind"][0] == pytest.approx(done.muse.labels["kind"].kmeans.ari)
    assert null.values["kind"][0] == pytest.approx(done.methods["shuffled"].labels["kind"].kmeans.ari)
    assert null.values["neighbours"][0] != null.values["neighbours"][1]
    # every method but MUSE is only clustered again
    assert done.runs["concat"].varied == "clusters"
    assert done.runs["concat"].values == {}


def test_wrong_pairs_are_scored_by_the_images_that_they_saw(done: Experiment) -> None:
    """Its agreement with images is that of a fit, far from chance, though pairs are wrong."""
    near = done.methods["shuffled"].neighbours
    assert near.image > 2 * near.chance


def test_fits_of_muse_take_seeds_in_order_and_keep_reduced_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: Planted
) -> None:
    loaded, config = cells(
        tmp_path, planted(), seed=7, muse=UNTRAINED, image={"components": 5, "standardise": "no"}
    )
    fits: list[tuple[int, int, bool]] = []
    fit = module.fit

    def spy(given: Loaded, parameters: Any, device: str, **keywords: Any) -> Any:
        model = fit(given, parameters, device, **keywords)
        same = keywords.get("y") is None or np.array_equal(keywords["y"], given.paired.y)
        fits.append((parameters.seed, len(model.features_), same))
        assert model.reduction_ is None
        return model

    monkeypatch.setattr(module, "fit", spy)
    told: list[str] = []
    run_methods(loaded, config, on_method=told.append)
    assert fits == [(7, 5, True), (8, 5, True), (7, 5, False), (7, 5, False)]
    assert told == ["transcripts", "images", "concat", "MUSE", "MUSE, shuffled pairs", "test of the pairing"]


def test_missing_packages_leave_a_row_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: Planted
) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise MissingDependency("no muon", hint="pip install 'microsnoop-platform[multimodal]'")

    def failing(*_: Any, **__: Any) -> None:
        raise JointError("no_factor", "none of 10 factors explains 1% of anything")

    # the package's own names wnn and mofa are verbs
    monkeypatch.setattr(import_module("microsnoop_integrations.joint.wnn"), "wnn", absent)
    monkeypatch.setattr(import_module("microsnoop_integrations.joint.mofa"), "mofa", failing)
    methods = ["transcripts", "images", "concat", "wnn", "mofa", "muse"]
    loaded, config = cells(tmp_path, planted(), labels=["kind"], methods=methods, seeds=1, muse=UNTRAINED)
    found = run_methods(loaded, config)
    assert found.failed == {
        "wnn": "not installed (pip install 'microsnoop-platform[multimodal]')",
        "mofa": "none of 10 factors explains 1% of anything",
    }
    rows = label_rows(found, "kind")
    assert [row[0] for row in rows] == ["transcripts", "images", "concat", "WNN", "MOFA", "MUSE"]
    assert rows[3][1].startswith("not installed")
    assert {len(row) for row in rows} == {len(LABEL_HEADER)}
    assert space_rows(found)[4][1].startswith("none of 10")
    statuses = {row[0]: row[1] for row in score_rows(found)}
    assert statuses["WNN"].startswith("not installed")  # type: ignore[union-attr]
    assert statuses["MUSE"] == "ok"
    assert np.isnan(found.runs["muse"].stability.mean)  # one run has no stability, and is no warning
    assert "unstable_clusters" not in {finding.code for finding in found.findings}


def test_a_single_modality_that_fails_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, planted: Planted
) -> None:
    loaded, config = cells(tmp_path, planted())

    def failing(*_: Any, **__: Any) -> None:
        raise JointError("no_variance", "nothing varies")

    monkeypatch.setattr(module, "_baseline", failing)
    with pytest.raises(JointError, match="nothing varies"):
        run_methods(loaded, config)


def test_images_of_noise_are_told(tmp_path: Path, planted: Planted) -> None:
    rna, image = planted()
    image.X = np.random.default_rng(5).normal(size=image.shape).astype(np.float32)
    methods = ["transcripts", "images", "muse"]
    loaded, config = cells(tmp_path, (rna, image), labels=["kind"], methods=methods, seeds=1)
    found = run_methods(loaded, config)
    assert "pairing_not_seen" in {finding.code for finding in found.findings if finding.strong}
    assert found.model.gates_["image"] < found.model.gates_["rna"]


def test_findings_of_the_model_come_first(done: Experiment) -> None:
    weak = Finding("weak_modality", "clusters of image are hardly found again", strong=True)
    model: Any = SimpleNamespace(findings_=[weak])
    assert judge(replace(done, model=model))[0] == weak


def test_without_labels_methods_are_still_compared(tmp_path: Path, planted: Planted) -> None:
    loaded, config = cells(tmp_path, planted(), muse=UNTRAINED, seeds=1, shuffles=1)
    found = run_methods(loaded, config)
    assert not found.muse.labels
    rows = score_rows(found)
    assert {len(row) for row in rows} == {len(SCORES_HEADER)}
    assert [row[2] for row in rows] == [""] * 5
    assert stability_table(found)[0][-1] == "range"
    values = {key: list(run.values["neighbours"]) for key, run in found.runs.items() if run.values}
    beaten = max(values["shuffled"]) < np.mean(values["muse"])
    assert ("null_not_beaten" in {finding.code for finding in found.findings}) != beaten


def changed(done: Experiment, method: str, ari: float, *, measure: str = "kmeans") -> Experiment:
    """Return the experiment with another ARI of one method; its interval is 0.1 wide."""
    scored = done.methods[method]
    label = scored.labels["kind"]
    score = replace(getattr(label, measure), ari=ari, ari_interval=Interval(ari - 0.05, ari + 0.05, "x"))
    labels = {"kind": replace(label, **{measure: score})}
    return replace(done, methods={**done.methods, method: replace(scored, labels=labels)})


def told(experiment: Experiment) -> dict[str, bool]:
    return {finding.code: finding.strong for finding in judge(experiment)}


def test_what_is_better_than_muse_is_told_beyond_its_interval_and_within(done: Experiment) -> None:
    stable = replace(done.runs["muse"], stability=Stability(0.9, 0.9, 0.9, 2))
    level = replace(done, runs={**done.runs, "muse": stable})
    even = replace(level.muse, found=replace(level.muse.found, weight_rna=np.full(96, 0.5, np.float32)))
    level = replace(level, methods={**level.methods, "muse": even})
    for measure in ("kmeans", "default"):
        for method in ("transcripts", "images", "concat", "muse"):
            level = changed(level, method, 0.5, measure=measure)
    assert told(level) == {}
    assert told(changed(level, "concat", 0.51)) == {}
    assert told(changed(level, "concat", 0.53)) == {"concat_better": False}
    assert told(changed(level, "concat", 0.56)) == {"concat_better": True}
    assert told(changed(level, "images", 0.56, measure="default")) == {"single_modality_better": True}
    # by clusters it is far ahead, by k-means a little: the worse of the two is told, once
    both = changed(changed(level, "transcripts", 0.52), "transcripts", 0.9, measure="default")
    (finding,) = judge(both)
    assert finding.strong
    assert "ARI of clusters 0.90 against 0.50, beyond" in finding.message
    assert finding.message.startswith("transcripts agree better with kind")


def test_null_seeds_and_weights_are_judged(done: Experiment) -> None:
    def runs(values: list[float], mean: float) -> Runs:
        return Runs("x", Stability(mean, 0.0, 1.0, len(values)), {"kind": values, "neighbours": values})

    def with_runs(ours: list[float], null: list[float], mean: float = 0.9) -> dict[str, bool]:
        return told(replace(done, runs={"muse": runs(ours, mean), "shuffled": runs(null, 0.0)}))

    assert "null_not_beaten" not in with_runs([0.6, 0.8], [0.1, 0.69])
    assert with_runs([0.6, 0.8], [0.1, 0.71])["null_not_beaten"]
    assert with_runs([0.9, 0.9], [0.1], mean=0.4)["unstable_clusters"] is False
    lone = replace(done.muse, found=replace(done.muse.found, weight_rna=np.full(96, 0.97, np.float32)))
    one_sided = replace(done, methods={**done.methods, "muse": lone})
    assert "transcripts alone (weight 0.97)" in judge(one_sided)[-1].message
    sources = SimpleNamespace(image=SimpleNamespace(uns={"microsnoop": {"encoder_trained": np.bool_(False)}}))
    untrained = replace(done, loaded=replace(done.loaded, sources=sources))  # type: ignore[arg-type]
    assert told(untrained)["untrained_encoder"]


def test_genes_mark_the_types_and_groups_are_looked_up(done: Experiment) -> None:
    genes = gene_tables(done)
    assert set(genes.by_cluster["space"]) == {"MUSE", "images"}
    assert genes.by_cluster.groupby(["space", "cluster"]).size().max() == 5
    best = genes.by_cluster[(genes.by_cluster["q_value"] < 1e-6) & (genes.by_cluster["score"] > 0)]
    assert set(best["gene"].str[1:].astype(int) // 20) <= {0, 1, 2}
    assert genes.in_image_space["q_value"].iloc[0] < 0.05
    assert list(genes.groups["gene"]) == ["g00", "g25"]
    assert genes.groups["ratio"].iloc[0] > 1


def test_unknown_genes_are_refused() -> None:
    check_genes([], [])
    with pytest.raises(ConfigError, match="the transcripts have no ERBB3"):
        check_genes(["g1", "ERBB3"], ["g1", "g2"])


def test_tables_for_programs_have_all_rows(done: Experiment) -> None:
    rows = score_rows(done)
    assert [row[0] for row in rows] == ["transcripts", "images", "concat", "MUSE", "MUSE, shuffled pairs"]
    muse = dict(zip(SCORES_HEADER, rows[3], strict=True))
    assert float(str(muse["ari_kmeans"])) == pytest.approx(done.muse.labels["kind"].kmeans.ari, abs=1e-5)
    assert 0 < float(str(muse["weight_rna_5"])) <= float(str(muse["weight_rna_median"])) < 1
    assert dict(zip(SCORES_HEADER, rows[0], strict=True))["share_rna"] == ""
    runs = [dict(zip(RUNS_HEADER, row, strict=True)) for row in run_rows(done)]
    measured = [(row["method"], row["measure"], row["run"]) for row in runs if row["measure"] == "kind"]
    assert measured == [
        ("MUSE", "kind", 0), ("MUSE", "kind", 1), ("MUSE, shuffled pairs", "kind", 0),
        ("MUSE, shuffled pairs", "kind", 1),
    ]  # fmt: skip
    assert sum(row["method"] == "concat" for row in runs) == 1

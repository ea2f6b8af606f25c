"""A joint analysis from start to end: two modalities in, MuData, scores, pictures and a report out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import microsnoop
from microsnoop.core.config import digest
from microsnoop.core.joint_config import JointConfig
from microsnoop.io.parts import write_csv
from microsnoop_apps.joint import tables
from microsnoop_apps.joint.experiment import Experiment, OnEpoch, run_methods
from microsnoop_apps.joint.gene_tables import GeneTables, check_genes, gene_tables
from microsnoop_apps.joint.loading import Loaded, load
from microsnoop_apps.joint.pictures import PICTURES, draw
from microsnoop_apps.joint.report import verdict, write_report
from microsnoop_apps.profiling import Floats
from microsnoop_apps.terminal import ProgressLine, say, show_rows, show_table
from microsnoop_integrations.anndata_io import write
from microsnoop_integrations.joint.joining import REJECT_COLUMNS

NAME = "joint"


def analyse(config: JointConfig, *, root: str, pictures: bool = True) -> Experiment:
    """Run a joint analysis and write everything to ``config.out``.

    Raises
    ------
    InputError, ConfigError, JointError
        Cells, settings, or modalities that cannot be analysed together.
    """
    out = Path(config.out)
    say(config.title)
    loaded = load(config, root=root)
    check_genes(config.genes.groups, [str(name) for name in loaded.paired.sources[0].var_names])
    show_loaded(loaded)
    experiment = run_methods(loaded, config, on_method=lambda name: say(f"  {name} ..."), watch=_watch)
    genes = gene_tables(experiment)
    out.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:  # a picture of an earlier run must not lie beside results it has nothing to do with
        (out / f"{name}.png").unlink(missing_ok=True)
    drawn, maps = draw(experiment, out) if pictures else ([], {})
    write_tables(experiment, genes, out)
    write_cells(experiment, maps, out)
    report = write_report(experiment, genes, drawn, provenance=facts(experiment), out=out)
    show_experiment(experiment)
    show_rows(
        [
            ("report", f"{report}, .md"),
            ("cells", f"{out / NAME}.h5mu, and as one AnnData {NAME}.h5ad"),
            ("model", f"{out / 'muse'}.safetensors, .json"),
            (
                "tables",
                "scores.csv, stability.csv, genes_by_cluster.csv, genes_in_image_space.csv, rejects.csv",
            ),
            ("pictures", ", ".join(picture.path.name for picture in drawn) or "none"),
        ]
    )
    return experiment


def show_loaded(loaded: Loaded) -> None:
    """Say what was read and paired."""
    paired = loaded.paired
    say(f"  {loaded.balance()}")
    say(
        f"  {len(paired.genes):,} genes, {len(paired.image_features):,} image features as {paired.y.shape[1]} "
        "components" + (" (standardised)" if loaded.standardised else "")
    )
    for annotation in loaded.labels:
        say(f"  {annotation.name}: {annotation.n_labels} labels in {int(annotation.known.sum()):,} cells")
    for note in loaded.notes:
        say(f"  note: {note}")


def show_experiment(experiment: Experiment) -> None:
    """Print scores and findings."""
    for label in experiment.muse.labels:
        say(f"\nAgreement with {label}")
        show_table(tables.LABEL_HEADER, tables.label_rows(experiment, label))
    say("\nWhat each representation keeps")
    show_table(tables.SPACE_HEADER, tables.space_rows(experiment))
    say("\nStability")
    show_table(*tables.stability_table(experiment))
    say()
    for text in verdict(experiment):
        say(text)
    for finding in experiment.findings:
        say(f"  {'WARNING' if finding.strong else 'careful'} ({finding.code}): {finding.message}")
    say()


def write_tables(experiment: Experiment, genes: GeneTables, out: Path) -> None:
    """Write scores, runs, genes and rejects."""
    write_csv(out / "scores.csv", tables.SCORES_HEADER, tables.score_rows(experiment))
    write_csv(out / "stability.csv", tables.RUNS_HEADER, tables.run_rows(experiment))
    for name, frame in (
        ("genes_by_cluster", genes.by_cluster),
        ("genes_in_image_space", genes.in_image_space),
        ("gene_groups", genes.groups),
    ):
        (out / f"{name}.csv").unlink(missing_ok=True)
        if name != "gene_groups" or len(frame):
            write_csv(out / f"{name}.csv", list(frame.columns), frame.to_numpy(object).tolist())
    rejects = experiment.loaded.rejects[list(REJECT_COLUMNS)].astype(str)
    write_csv(out / "rejects.csv", REJECT_COLUMNS, rejects.to_numpy(object).tolist())


def write_cells(experiment: Experiment, maps: dict[str, Floats], out: Path) -> None:
    """Write the cells as MuData and as its AnnData twin, and the fitted model."""
    from microsnoop_integrations.joint.keys import expand, key_of
    from microsnoop_integrations.joint.mudata_io import build, to_anndata, write_mudata

    paired, methods = experiment.loaded.paired, experiment.methods
    joint = [methods[m].found for m in ("concat", "wnn", "mofa", "published") if m in methods]
    single = [("rna", methods["transcripts"].found), ("image", methods["images"].found)]
    model = experiment.model
    data = build(paired, joint, model=model, single=single)
    for method, xy in maps.items():
        if method != "shuffled":
            rows = paired.order.argsort()
            data.obsm[f"X_umap_{key_of(method)}"] = expand(xy.astype("float32"), rows, len(xy))
    data.uns["joint"] = {**data.uns["joint"], **_provenance(experiment)}
    write_mudata(data, out / f"{NAME}.h5mu")
    write(to_anndata(data), out / f"{NAME}.h5ad")
    model.preparation_ = paired.preparation
    model.about_ = {name: str(value) for name, value in facts(experiment).items()}
    model.save(out)


def facts(experiment: Experiment) -> dict[str, Any]:
    """Return where the numbers come from."""
    loaded, config = experiment.loaded, experiment.config
    encoder = loaded.encoder
    made = config.model_dump(mode="json", exclude_none=True)
    known = {
        "encoder": " ".join(str(encoder.get(name, "")) for name in ("encoder", "encoder_sha256")),
        "licence of the encoder": str(encoder.get("encoder_licence", "")),
        "images that the encoder was trained on": _trained_on(encoder),
    }
    return {
        **loaded.sources.names,
        **({name: text for name, text in known.items() if text.strip()}),
        "cells": f"{len(loaded.paired.obs_ids):,} × ({len(loaded.paired.genes):,} genes + "
        f"{len(loaded.paired.image_features):,} image features)",
        "microsnoop": microsnoop.__version__,
        "configuration": json.dumps(made, ensure_ascii=False),
        "hash of the configuration": digest(made),
    }


def _trained_on(encoder: Any) -> str:
    """Return the sources of an installed encoder of that name and weights: a pool may hold these very images."""
    from microsnoop.models.registry import list_encoders

    cards = (entry.card for entry in list_encoders() if entry.name == encoder.get("encoder"))
    card = next((card for card in cards if card is not None), None)
    if card is None or card.weights_sha256 != encoder.get("encoder_sha256"):
        return ""
    return ", ".join(map(str, card.sources))


def _provenance(experiment: Experiment) -> dict[str, Any]:
    findings = [vars(finding) for finding in experiment.findings]
    return {
        "facts_json": json.dumps(facts(experiment), ensure_ascii=False),
        "findings_json": json.dumps(findings, ensure_ascii=False),
        "balance": experiment.loaded.balance(),
    }


@contextmanager
def _watch(name: str) -> Iterator[OnEpoch]:
    """Show the epochs of a fit."""
    began = time.monotonic()
    with ProgressLine(f"    {name}") as line:

        def show(done: int, total: int, phase: str, loss: float) -> None:
            rate = done / max(time.monotonic() - began, 1e-9)
            line.counting(done, total, f"{done:,} of {total:,} epochs, {phase}, loss {loss:.4g}", per_s=rate)

        yield show

"""A batch experiment from start to end: profiles in, corrected treatment profiles, scores and a report out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

import microsnoop
from microsnoop.core.config import digest
from microsnoop.core.profile_config import ProfileConfig
from microsnoop.core.schema import SCHEMA_VERSION
from microsnoop.correction.files import save
from microsnoop.io.parts import write_csv, write_parquet
from microsnoop.io.profile_table import ProfileTable
from microsnoop_apps.profiling import tables
from microsnoop_apps.profiling.experiment import Experiment, run_methods
from microsnoop_apps.profiling.loading import Loaded, load
from microsnoop_apps.profiling.pictures import PICTURES, draw
from microsnoop_apps.profiling.report import write_report
from microsnoop_apps.terminal import say, show_rows, show_table
from microsnoop_integrations.anndata_io import write
from microsnoop_integrations.profiles import UNS, provenance, to_anndata

TREATMENTS, ROWS = "treatments", "rows"
# what not every run writes: a file of an earlier run must not lie beside results that it has nothing to do with
_SOMETIMES = ("correction.safetensors", "correction.json", *(f"{name}.png" for name in PICTURES))


def profile(config: ProfileConfig, *, root: str, pictures: bool = True) -> Experiment:
    """Run a batch experiment and write everything to ``config.out``.

    Raises
    ------
    InputError, ConfigError, CorrectionError
        Rows, settings, or a correction that would be wrong on these rows.
    """
    out = Path(config.out)
    loaded = load(config, root=root)
    show_loaded(loaded, config)
    experiment = run_methods(loaded.rows, config, on_method=lambda name: say(f"  {name} ..."))
    out.mkdir(parents=True, exist_ok=True)
    for name in _SOMETIMES:
        (out / name).unlink(missing_ok=True)
    write_tables(experiment, loaded, out)
    drawn = draw(experiment, out) if pictures else []
    report = write_report(experiment, loaded, drawn, provenance=facts(experiment), out=out)
    show_experiment(experiment, loaded)
    corrected = experiment.used.corrector is not None
    written = [
        ("report", str(report)),
        ("treatments", f"{out / TREATMENTS}.h5ad, .parquet"),
        ("rows", f"{out / ROWS}.h5ad (X as it came{', corrected beside it' if corrected else ''})"),
        ("correction", f"{out / 'correction'}.safetensors, .json") if corrected else ("correction", "none"),
        ("beside them", "scores.csv, metrics.parquet, predictions.csv, rejects.parquet"),
    ]
    show_rows(written)
    return experiment


def facts(experiment: Experiment) -> dict[str, str]:
    """Return where the numbers come from."""
    config = experiment.config
    return {
        "source": experiment.source.source,
        "rows": f"{len(experiment.source.obs):,} × {experiment.source.x.shape[1]:,} features",
        "microsnoop": microsnoop.__version__,
        "configuration": json.dumps(config.model_dump(mode="json"), ensure_ascii=False),
        "hash of the configuration": digest(config.model_dump(mode="json")),
    }


def show_loaded(loaded: Loaded, config: ProfileConfig) -> None:
    """Say what was read, and what to be careful about."""
    obs = loaded.rows.obs
    say(f"{config.title}: {len(obs):,} rows × {loaded.rows.x.shape[1]:,} features")
    counts = {
        name: obs[name].nunique()
        for name in ("plate", "batch", "treatment", config.score.compound)
        if name in obs
    }
    if config.score.label is not None and config.score.label in obs:
        counts[config.score.label] = obs.loc[~obs["is_control"], config.score.label].nunique()
    say(
        "  "
        + ", ".join(f"{n:,} × {name}" for name, n in counts.items())
        + f", {int(obs['is_control'].sum()):,} controls"
    )
    for note in loaded.notes:
        say(f"  note: {note}")
    for finding in loaded.findings:
        say(f"  {'WARNING' if finding.strong else 'careful'} ({finding.code}): {finding.message}")


def show_experiment(experiment: Experiment, loaded: Loaded) -> None:
    """Print scores and findings."""
    say()
    say(loaded.balance(experiment))
    if tables.has_rules(experiment):
        say("\nMechanism of the nearest treatment, right / n = % [95 %]")
        show_table(tables.HEADLINE_HEADER, tables.headline_rows(experiment))
    say("\nReplicates and mechanisms, mean average precision")
    show_table(tables.MAP_HEADER, tables.map_rows(experiment))
    if rows := tables.batch_rows(experiment):
        say("\nWhat is left of batches")
        show_table(tables.BATCH_HEADER, rows)
    for finding in experiment.findings:
        say(f"  {'WARNING' if finding.strong else 'careful'} ({finding.code}): {finding.message}")
    for name, reason in experiment.failed.items():
        say(f"  not computed: {name}: {reason}")
    say()


def write_tables(experiment: Experiment, loaded: Loaded, out: Path) -> None:
    """Write profiles, the fitted correction, scores and rejects."""
    used = experiment.used
    treatments = to_anndata(used.treatments)
    treatments.uns[UNS] = _provenance(experiment, "X")
    write(treatments, out / f"{TREATMENTS}.h5ad")
    write_parquet(out / f"{TREATMENTS}.parquet", table_of(used.treatments))
    rows = to_anndata(experiment.source)
    if used.corrector is not None:
        if tuple(used.rows.features) == tuple(experiment.source.features):
            rows.layers["corrected"] = used.rows.x
        else:
            rows.obsm["X_corrected"] = used.rows.x
        rows.uns[UNS] = _provenance(experiment, "corrected")
        save(used.corrector, out / "correction")
    write(rows, out / f"{ROWS}.h5ad")
    rejects = loaded.rejects(experiment).astype(str)
    write_parquet(out / "rejects.parquet", pa.Table.from_pandas(rejects, preserve_index=False))
    write_parquet(out / "metrics.parquet", tables.metrics_table(experiment))
    write_csv(out / "scores.csv", tables.RULE_HEADER, tables.rule_rows(experiment))
    write_csv(out / "predictions.csv", tables.PREDICTION_HEADER, tables.prediction_rows(experiment))


def table_of(table: ProfileTable) -> pa.Table:
    """Return profiles as one Arrow table: ``obs_id``, metadata, then a column a feature (float32)."""
    obs = table.obs.copy()
    obs.index.name = None
    for name in obs.columns:
        if obs[name].dtype == object:
            obs[name] = obs[name].where(obs[name].isna(), obs[name].astype(str))
    metadata = pa.Table.from_pandas(obs, preserve_index=False)
    names = ["obs_id", *metadata.column_names, *table.features]
    columns = [
        pa.array(table.obs.index.astype(str)),
        *metadata.columns,
        *(pa.array(c) for c in table.x.T.copy()),
    ]
    header = {b"microsnoop": json.dumps({"schema_version": SCHEMA_VERSION, "kind": "profiles"}).encode()}
    return pa.table(columns, names=names).replace_schema_metadata(header)


def _provenance(experiment: Experiment, key: str) -> dict[str, object]:
    """Return what was done, and under ``key`` (``X`` or the layer it made) the correction itself."""
    config, used = experiment.config, experiment.used
    described: dict[str, object] = {
        "method": config.use,
        "config_json": json.dumps(config.model_dump(mode="json"), ensure_ascii=False),
        "guards_json": json.dumps([vars(finding) for finding in experiment.findings]),
    }
    if used.corrector is not None:
        described[key] = {k: v for k, v in provenance(used.corrector, {}).items() if k != "arrays"} | {
            "arrays_file": "correction.safetensors"
        }
    return described

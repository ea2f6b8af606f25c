"""The evaluation from recipes to report: rows, embeddings, scores, leakage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microsnoop.core.config import EmbedConfig, InputConfig, digest
from microsnoop.core.config_file import build_config
from microsnoop.core.errors import ConfigError, InputError
from microsnoop.core.evaluate_config import EvaluateConfig, RecipeEmbedConfig
from microsnoop.io.labelled import LabelledRows, choose_rows, read_labelled, write_input
from microsnoop.io.manifest import InputList
from microsnoop.io.opener import is_remote
from microsnoop.models.registry import DEFAULT_ENCODER, load_encoder
from microsnoop.pipelines.cluster import cluster, local_resources
from microsnoop.pipelines.leakage import Hashes, find_hits, hash_images, hash_pool
from microsnoop.pipelines.measure import FEATURES
from microsnoop_apps.evaluation import tables
from microsnoop_apps.evaluation.report import NO_BASELINES, Leakage, write_report
from microsnoop_apps.evaluation.scores import SetScores, score_set
from microsnoop_apps.evaluation.sources import BASELINES, Source, anndata_source, encoder_sources
from microsnoop_apps.terminal import native_messages_held, say, show_rows, show_table


@dataclass(frozen=True)
class Job:
    """What is to be evaluated, and where the results go."""

    recipes: Mapping[str, EvaluateConfig]
    encoders: Sequence[str]
    root: str
    out: Path
    pool: Path | None = None
    baselines: bool = True
    execution: dict[str, Any] = field(default_factory=dict)
    debug: bool = False


def evaluate(job: Job) -> list[SetScores]:
    """Evaluate all recipes of a job, print what comes out and write the report.

    Raises
    ------
    ConfigError
        Baselines cannot be computed (an AnnData file alone has no pixels) and were not waived.
    MicrosnoopError
        Data, encoder or run cannot be used.
    KeyboardInterrupt
        Interrupted; the same command goes on.
    """
    encoders = list(dict.fromkeys(job.encoders or [DEFAULT_ENCODER]))
    _check(job, encoders)
    chosen = {name: _choose(recipe, job) for name, recipe in job.recipes.items()}
    job.out.mkdir(parents=True, exist_ok=True)
    if not job.baselines:
        say(f"*** {NO_BASELINES} ***\n")
    results: list[SetScores] = []
    leaks: dict[str, Leakage] = {}
    with ExitStack() as stack:
        if any(rows.inputs is not None for rows in chosen.values()):
            with native_messages_held():  # one cluster for all runs
                stack.enter_context(
                    cluster(
                        job.execution.get("address"),
                        memory_bytes=local_resources(gpus=0).memory_bytes,
                        verbose=job.debug,
                    )
                )
        pool = _pool(job)
        for number, (name, recipe) in enumerate(job.recipes.items(), start=1):
            say(f"\n== {name} ({number} of {len(job.recipes)}): {recipe.title}")
            sources, images = _sources(name, recipe, chosen[name], job, encoders)
            tested = [s.name for s in sources if s.encoder not in BASELINES or s.encoder in encoders]
            result = score_set(name, recipe, chosen[name].rows, sources, tested=tested)
            leaks[name] = _leakage(images, pool)
            _show(result, leaks[name].sentence(pool))
            results.append(result)
    report = write_report(results, leaks, pool=pool, baselines=job.baselines, out=job.out)
    _conclude(results, report, job)
    return results


@dataclass(frozen=True)
class _Chosen:
    """The rows of a recipe, the images they come from, and the AnnData files that are scored with them."""

    rows: LabelledRows
    inputs: InputList | None
    given: tuple[Source, ...]


def _choose(recipe: EvaluateConfig, job: Job) -> _Chosen:
    """Read labels and AnnData files of a recipe: what is wrong with any of them is said before any work."""
    given = {label: anndata_source(label, path, root=job.root) for label, path in recipe.anndata.items()}
    sources = tuple(source for source, _ in given.values())
    if recipe.input is None:
        label, (_, columns) = next(iter(given.items()))
        return _Chosen(choose_rows(columns, recipe, where=recipe.anndata[label]), None, sources)
    try:
        inputs, rows = read_labelled(recipe, root=job.root)
    except InputError as error:
        if is_remote(job.root) or Path(job.root).is_dir():
            raise
        raise InputError(
            error.message, hint=f"there is no folder {job.root}: give --data DIR, or set MICROSNOOP_DATA"
        ) from error
    return _Chosen(rows, inputs, sources)


def _check(job: Job, encoders: list[str]) -> None:
    """Refuse at once what cannot work: unknown encoders, baselines without pixels or packages."""
    pixels = [name for name, recipe in job.recipes.items() if recipe.input is not None]
    if job.baselines and len(pixels) < len(job.recipes):
        without = [name for name in job.recipes if name not in pixels]
        raise ConfigError(
            f"no baseline can be computed for {', '.join(without)}: an AnnData file has no pixels",
            hint="give a recipe with both `input` and `anndata`, or accept bare scores with --no-baselines",
        )
    if pixels:
        for encoder in (*encoders, *(BASELINES if job.baselines else ())):
            if encoder != FEATURES:
                load_encoder(encoder)
    names = [Path(encoder).stem if encoder.endswith(".safetensors") else encoder for encoder in encoders]
    if len(set(names)) < len(names):
        raise ConfigError(f"two encoders have the same name: {', '.join(encoders)}", hint="rename one file")


def _sources(
    name: str, recipe: EvaluateConfig, chosen: _Chosen, job: Job, encoders: list[str]
) -> tuple[list[Source], InputConfig | None]:
    """Return everything to be judged on the rows of a recipe, and the images they come from.

    Encoders under test are judged in every variant, mere baselines in the first one.
    """
    sources = list(chosen.given)
    if chosen.inputs is None or recipe.input is None:
        return sources, None
    images, key = write_input(chosen.inputs, chosen.rows, recipe.input, folder=job.out / "inputs")
    runs = _runs(recipe, key)
    reference = next(iter(recipe.embeddings()))
    for encoder in dict.fromkeys([*encoders, *(BASELINES if job.baselines else ())]):
        for folder, embeds in runs.items():
            wanted = {v: e for v, e in embeds.items() if encoder in encoders or v == reference}
            if not wanted:
                continue
            say(f"\n-- {name}: " + ", ".join([encoder, *filter(None, wanted)]))
            sources += encoder_sources(
                encoder, wanted, images, folder=job.out / "embeddings" / folder,
                execution=job.execution, debug=job.debug,
            )  # fmt: skip
    return sources, images


def _runs(recipe: EvaluateConfig, key: str) -> dict[str, dict[str, RecipeEmbedConfig]]:
    """Return the folders of a recipe's runs, and the variants that are made of each: they share its rows."""
    runs: dict[str, dict[str, RecipeEmbedConfig]] = {}
    for variant, embed in recipe.embeddings().items():
        runs.setdefault(digest([key, embed.run_settings()])[:12], {})[variant] = embed
    return runs


def _pool(job: Job) -> Hashes | None:
    if job.pool is None:
        return None
    say(f"hashing the pool {job.pool} ...")
    return hash_pool(job.pool)


def _leakage(images: InputConfig | None, pool: Hashes | None) -> Leakage:
    if images is None or pool is None:
        return Leakage(None)
    settings = {"input": images.model_dump(mode="json"), "run_dir": "unused"}
    planes = hash_images(build_config(settings, overrides=None, model=EmbedConfig, where="the recipe"))
    return Leakage(planes, tuple(find_hits(planes, pool)))


def _show(result: SetScores, leakage: str) -> None:
    say(f"\n{result.name}: {tables.balance(result)}")
    for note in result.notes:
        say(f"  note: {note}")
    show_table(tables.HEADER, tables.set_rows(result))
    if result.comparisons:
        say("  paired comparison, row by row:")
        show_table(tables.COMPARISON_HEADER, tables.comparison_rows(result))
    say(f"  {leakage}")


def _conclude(results: list[SetScores], report: Path, job: Job) -> None:
    means = tables.mean_rows(results) if len(results) > 1 else []
    if means:
        say(f"\nMean over {len(results)} sets, each counting the same (per cent)")
        show_table(tables.HEADER, means)
    if not job.baselines:
        say(f"\n*** {NO_BASELINES} ***")
    say()
    files = ("scores.csv", "metrics.parquet", "predictions.parquet", "scores.png", "leakage.csv")
    show_rows([("report", str(report)), ("beside it", ", ".join(files))])

"""Vectors to judge: an encoder's run, hand-crafted features, or an AnnData file, all under the same row ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig, InputConfig, digest
from microsnoop.core.config_file import build_config
from microsnoop.core.errors import InputError, RunError
from microsnoop.core.evaluate_config import RecipeEmbedConfig
from microsnoop.core.schema import Key
from microsnoop.io.opener import join
from microsnoop.io.store import RunStore
from microsnoop.io.tables import read_table
from microsnoop.models.registry import load_encoder
from microsnoop.ops.features import unique_columns
from microsnoop.pipelines.measure import FEATURES
from microsnoop.pipelines.progress import Summary
from microsnoop_apps.runs import embed_with_progress
from microsnoop_integrations.anndata_io import export, read

BASELINES = ("untrained", "efficientnet-lite0", FEATURES)
_MEMBERS = ("n_cells", "n_tiles", "n_images")


@dataclass(frozen=True)
class Source:
    """Vectors (N, D) under row ids, and who made them; ``scaled`` ones are standardised before distances.

    ``embedding`` is the variant of the recipe that ``encoder`` embedded, empty where there are none; ``name`` holds
    both. ``empty`` are images of which no cell or tile was embedded: they have no vector. ``note`` says what the
    vectors were aggregated from.
    """

    name: str
    sha256: str
    trained: bool
    ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    scaled: bool
    rejected: int
    rejected_by_code: dict[str, int]
    encoder: str
    embedding: str = ""
    empty: tuple[str, ...] = ()
    note: str = ""

    @property
    def signature(self) -> str:
        """Name and first 12 digits of the weights' SHA-256: stands in every table and figure."""
        return f"{self.name} ({self.sha256[:12] or 'no weights'})"

    def rows(self, ids: tuple[str, ...]) -> NDArray[np.float32]:
        """Return the vectors of ``ids``, in that order."""
        place = {name: i for i, name in enumerate(self.ids)}
        return self.vectors[[place[name] for name in ids]]


def encoder_sources(
    encoder: str,
    embeds: Mapping[str, RecipeEmbedConfig],
    images: InputConfig,
    *,
    folder: Path,
    execution: dict[str, Any],
    debug: bool,
) -> list[Source]:
    """Embed the chosen rows once with one encoder (or measure features), resuming what is there; export, read.

    Runs live in ``folder``, one a set of weights: other weights under the same name never meet old rows. ``embeds``
    are variants of one run: they differ in nothing but how its rows are aggregated.

    Raises
    ------
    KeyboardInterrupt
        The run was interrupted; everything computed is written.
    RunError
        Rows are missing, or every row was rejected.
    """
    name = Path(encoder).stem if encoder.endswith(".safetensors") else encoder
    sha256 = "" if encoder == FEATURES else load_encoder(encoder).card.weights_sha256
    run_dir = folder / f"{name}-{sha256[:12]}".rstrip("-")
    embed = next(iter(embeds.values()))
    settings = {
        **embed.model_dump(mode="json", exclude_unset=True, exclude={"aggregate"}),
        "input": images.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "encoder": encoder,
        "execution": execution,
    }
    cfg = build_config(settings, overrides=None, model=EmbedConfig, where="the recipe")
    summary = _embedded(cfg, debug=debug)
    sources = [
        _of_run(cfg, summary, name=name, embedding=variant, aggregate=embed.aggregate)
        for variant, embed in embeds.items()
    ]
    which = name if not sources[0].embedding else f"{name}, {', '.join(embeds)}"
    return [replace(s, note="" if i or not s.note else f"{which}: {s.note}") for i, s in enumerate(sources)]


def _embedded(cfg: EmbedConfig, *, debug: bool) -> Summary:
    run_dir = Path(cfg.run_dir)
    fork_from = None if cfg.input.cells or RunStore(run_dir).exists else _relative(run_dir, cfg)
    summary = embed_with_progress(cfg, fork_from=fork_from, debug=debug)
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    if not summary.complete or not summary.written:
        raise RunError(
            f"{run_dir} cannot be scored: status {summary.status}, {summary.written} rows written, "
            f"{summary.rejected} rejected",
            hint=f"`microsnoop verify {run_dir}` names the rows",
        )
    return summary


def _of_run(cfg: EmbedConfig, summary: Summary, *, name: str, embedding: str, aggregate: str) -> Source:
    """Return the vectors of a finished run: its rows as they are, or aggregated to the images of its input list.

    What is rejected of an image that is made of cells or tiles is no row of the set: the note counts it.
    """
    run_dir = Path(cfg.run_dir)
    source_name = f"{name}, {embedding}" if embedding else name
    shared: dict[str, Any] = {"name": source_name, "encoder": name, "embedding": embedding}
    shared |= {"features": cfg.encoder == FEATURES}
    codes = dict(summary.rejected_by_code)
    if cfg.mode not in ("tile", "crop"):
        return _as_source(read(export(run_dir)), rejected=summary.rejected, by_code=codes, **shared)
    target = run_dir.with_name(f"{run_dir.name}-{aggregate}.h5ad")
    if cfg.input.cells:  # tiles of listed cells
        data = read(export(run_dir, target, level="image", aggregate=aggregate))
        return _as_source(data, rejected=summary.rejected, by_code=codes, **shared)
    data = read(export(run_dir, target, level="field", aggregate=aggregate))
    members = np.sum([data.obs[n].to_numpy(np.int64) for n in _MEMBERS if n in data.obs], axis=0)
    source = _as_source(data[members > 0], rejected=0, by_code={}, **shared)
    empty = tuple(map(str, data.obs_names[members == 0]))
    what = "cells" if cfg.mode == "crop" else "tiles"
    return replace(source, empty=empty, note=_account(members, codes, what))


def _account(members: NDArray[np.int64], rejected_by_code: Mapping[str, int], what: str) -> str:
    """Return how many cells or tiles the vectors of the images are made of, and what became of the others."""
    filled = members[members > 0]
    text = (
        f"{members.sum():,} {what} of {len(filled):,} images (median {np.median(filled):g}, {filled.min():,} to "
        f"{filled.max():,} an image)"
    )
    if len(filled) < len(members):
        text += f"; {len(members) - len(filled):,} images without any"
    rejects = ", ".join(f"{code} {n:,}" for code, n in rejected_by_code.items())
    return f"{text}; rejected: {rejects}" if rejects else text


def _relative(run_dir: Path, cfg: EmbedConfig) -> str | None:
    """Return the run of another draw or recipe that shares most images with this one, to take its rows over.

    Rows are taken over only where their source, settings and weights are the same: another variant has none. Not
    for listed cells: the rows of an image that has other cells now do not fit.
    """
    wanted = set(read_table(str(cfg.input.manifest))["image_id"].to_pylist())
    shared: dict[str, int] = {}
    for info in run_dir.parent.parent.glob(f"*/{run_dir.name}/run.json"):
        store = RunStore(info.parent)
        if digest(store.identity["processing"]) != digest(cfg.processing()):
            continue
        rows = store.rows(("image_id",))
        shared[str(info.parent)] = len(wanted.intersection(rows["image_id"].to_pylist()))
    best = max(shared, key=lambda path: (shared[path], path), default=None)
    return best if best is not None and shared[best] else None


def anndata_source(name: str, path: str, *, root: str) -> tuple[Source, dict[str, list[Any]]]:
    """Read an AnnData file: its X as vectors, and its obs as columns for ``choose_rows``.

    Raises
    ------
    InputError
        Not readable, obs_names that repeat, or values that are not finite.
    """
    where = join(root, path)
    try:
        data = read(where)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read the AnnData file {where}: {error}") from error
    repeated = [row for row, n in Counter(data.obs_names).items() if n > 1]
    if repeated:
        raise InputError(f"{where}: {len(repeated)} obs_names stand more than once, e.g. {repeated[0]!r}")
    columns: dict[str, list[Any]] = {"row_id": [str(row) for row in data.obs_names]}
    columns |= {str(column): data.obs[column].tolist() for column in data.obs.columns}
    return _as_source(data, name=name, encoder=name, rejected=0, by_code={}, features=False), columns


def _as_source(
    data: ad.AnnData,
    *,
    name: str,
    encoder: str,
    embedding: str = "",
    rejected: int,
    by_code: dict[str, int],
    features: bool,
) -> Source:
    vectors = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    made_by = data.uns.get(Key.UNS, {})
    if features:  # mean_std holds every column twice, one after the other
        once = unique_columns(len(made_by["channels"]))
        width = len(made_by["channels"]) * int(made_by["dim"])
        vectors = np.hstack([vectors[:, start + once] for start in range(0, vectors.shape[1], width)])
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | ~vectors.any(axis=1))
    if len(bad):
        raise InputError(
            f"{name}: {len(bad)} rows have NaN, infinite numbers or nothing but zeros, e.g. "
            f"{', '.join(map(repr, data.obs_names[bad[:5]]))}",
            hint="such rows have no direction to compare: remove them, and say so",
        )
    return Source(
        name=name,
        sha256=str(made_by.get("encoder_sha256", "")),
        trained=bool(made_by.get("encoder_trained", True)),
        ids=tuple(map(str, data.obs_names)),
        vectors=np.ascontiguousarray(vectors, np.float32),
        scaled=features,
        rejected=rejected,
        rejected_by_code=dict(by_code),
        encoder=encoder,
        embedding=embedding,
    )

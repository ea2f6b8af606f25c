"""Vectors to judge: an encoder's run, hand-crafted features, or an AnnData file, all under the same row ids."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from microsnoop.core.config import EmbedConfig, InputConfig
from microsnoop.core.config_file import build_config
from microsnoop.core.errors import InputError, RunError
from microsnoop.core.evaluate_config import EvaluateConfig
from microsnoop.core.schema import Key
from microsnoop.io.opener import join
from microsnoop.io.store import RunStore
from microsnoop.io.tables import read_table
from microsnoop.models.registry import load_encoder
from microsnoop.ops.features import unique_columns
from microsnoop.pipelines.measure import FEATURES
from microsnoop_apps.runs import embed_with_progress
from microsnoop_integrations.anndata_io import export, read

BASELINES = ("untrained", "efficientnet-lite0", FEATURES)


@dataclass(frozen=True)
class Source:
    """Vectors (N, D) under row ids, and who made them; ``scaled`` ones are standardised before distances."""

    name: str
    sha256: str
    trained: bool
    ids: tuple[str, ...]
    vectors: NDArray[np.float32]
    scaled: bool
    rejected: int
    rejected_by_code: dict[str, int]

    @property
    def signature(self) -> str:
        """Name and first 12 digits of the weights' SHA-256: stands in every table and figure."""
        return f"{self.name} ({self.sha256[:12] or 'no weights'})"

    def rows(self, ids: tuple[str, ...]) -> NDArray[np.float32]:
        """Return the vectors of ``ids``, in that order."""
        place = {name: i for i, name in enumerate(self.ids)}
        return self.vectors[[place[name] for name in ids]]


def encoder_source(
    encoder: str,
    recipe: EvaluateConfig,
    images: InputConfig,
    *,
    folder: Path,
    execution: dict[str, Any],
    debug: bool,
) -> Source:
    """Embed the chosen rows with one encoder (or measure features), resuming what is there; export, read.

    Runs live in ``folder``, one a set of weights: other weights under the same name never meet old rows.

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
    settings = {
        **recipe.embed.model_dump(mode="json", exclude_unset=True),
        "input": images.model_dump(mode="json"),
        "run_dir": str(run_dir),
        "encoder": encoder,
        "execution": execution,
    }
    cfg = build_config(settings, overrides=None, model=EmbedConfig, where="the recipe")
    fork_from = None if images.cells or RunStore(run_dir).exists else _relative(run_dir, images)
    summary = embed_with_progress(cfg, fork_from=fork_from, debug=debug)
    if summary.status == "interrupted":
        raise KeyboardInterrupt
    if not summary.complete or not summary.written:
        raise RunError(
            f"{run_dir} cannot be scored: status {summary.status}, {summary.written} rows written, "
            f"{summary.rejected} rejected",
            hint=f"`microsnoop verify {run_dir}` names the rows",
        )
    return _as_source(
        read(export(run_dir)),
        name=name,
        rejected=summary.rejected,
        by_code=summary.rejected_by_code,
        features=encoder == FEATURES,
    )


def _relative(run_dir: Path, images: InputConfig) -> str | None:
    """Return the run of another draw or recipe that shares most images with this one, to take its rows over.

    Rows are taken over only where their source, settings and weights are the same. Not for cells: the rows of an
    image that has other cells now do not fit.
    """
    wanted = set(read_table(str(images.manifest))["image_id"].to_pylist())
    shared: dict[str, int] = {}
    for info in run_dir.parent.parent.glob(f"*/{run_dir.name}/run.json"):
        rows = RunStore(info.parent).rows(("image_id",))
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
    return _as_source(data, name=name, rejected=0, by_code={}, features=False), columns


def _as_source(
    data: ad.AnnData, *, name: str, rejected: int, by_code: dict[str, int], features: bool
) -> Source:
    vectors = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    made_by = data.uns.get(Key.UNS, {})
    if features:
        vectors = vectors[:, unique_columns(len(made_by["channels"]))]
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
    )

"""What is done already, what is missing, and whether the two belong together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from microsnoop.core.config import EmbedConfig, digest
from microsnoop.core.errors import StaleOutput
from microsnoop.core.schema import WINDOW_COLUMNS, embedding_schema, reject_schema, unit_ids
from microsnoop.io.parts import read_parts, write_part
from microsnoop.io.store import COUNT_COLUMNS, RunStore, row_key
from microsnoop.io.verify import samples_per_image
from microsnoop.models.card import EncoderCard

_SHOWN = 5


@dataclass(frozen=True)
class Identity:
    """Everything besides the sources that decides the numbers of a run. Rows of two identities never mix."""

    processing: dict[str, Any]
    encoder: str
    encoder_sha256: str
    precision: str
    channels: list[str]
    dim: int
    input_px: int

    @classmethod
    def of(cls, cfg: EmbedConfig, card: EncoderCard, channels: tuple[str, ...], precision: str) -> Identity:
        """Return the identity of a run about to begin."""
        return cls(
            processing=cfg.processing(),
            encoder=card.name,
            encoder_sha256=card.weights_sha256,
            precision=precision,
            channels=list(channels),
            dim=card.dim,
            input_px=cfg.input_px or card.input_px,
        )

    @property
    def processing_key(self) -> str:
        """Hash of all of it; part of every row's key."""
        return digest(asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Return the form that stands in ``run.json``."""
        return {**asdict(self), "processing_key": self.processing_key}

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Return a line for each setting in which ``other`` (from ``run.json``) differs from this."""
        before, after = _flatten(other), _flatten(self.to_json())
        names = sorted((before.keys() | after.keys()) - {"processing_key"})
        return [
            f"{name}: the run has {before.get(name)!r}, now it is {after.get(name)!r}"
            for name in names
            if before.get(name) != after.get(name)
        ]


def check_same_run(store: RunStore, identity: Identity, records: pa.Table) -> None:
    """Refuse to go on in a run directory with other settings, weights or inputs.

    Metadata may change: it is joined by key at export and costs no embedding.

    Raises
    ------
    StaleOutput
        The message names every difference.
    """
    problems = identity.differences(store.identity) + _input_differences(store.records, records)
    if problems:
        raise StaleOutput(
            f"{store.path} was begun with other settings, weights or inputs (stale_output):\n"
            + "\n".join(f"  {line}" for line in problems),
            hint=f"go back to them, choose another run_dir, or use --fork {store.path}-2 to begin a new run "
            "there that takes over every row which is still valid",
        )


def pending_records(store: RunStore, records: pa.Table) -> pa.Table:
    """Return the records that still lack samples; ``skip_obs_ids`` lists those they have already."""
    rows = store.rows(COUNT_COLUMNS)
    expected, present = samples_per_image(records, rows)
    missing = np.flatnonzero(np.asarray(present) < np.asarray(expected))
    pending = records.take(pa.array(missing, pa.int64()))
    wanted = unit_ids(pending)
    done: dict[str, list[str]] = defaultdict(list)
    if rows.num_rows and wanted:
        open_units = set(wanted)
        for unit, obs_id in zip(unit_ids(rows), rows["obs_id"].to_pylist(), strict=True):
            if unit in open_units:
                done[unit].append(obs_id)
    skip = [done.get(unit, []) for unit in wanted]
    keep = [name for name in pending.column_names if not name.startswith("meta_")]
    return pending.select(keep).append_column("skip_obs_ids", pa.array(skip, pa.list_(pa.string())))


def copy_valid_rows(source: RunStore, target: RunStore, records: pa.Table, identity: Identity) -> int:
    """Copy the rows of another run that this run would compute exactly alike; return how many.

    Only images with the same cells as before: a row knows how many samples its image has.
    """
    old, new = _sources(source.records), _sources(records)
    keys = {name: key for name, (key, boxes) in new.items() if old.get(name) == (key, boxes)}
    schemas = (
        (
            source.embedding_parts(),
            target.embeddings,
            embedding_schema(channels=identity.channels, dim=identity.dim),
        ),
        (source.reject_parts(), target.rejects, reject_schema()),
    )
    copied = 0
    for parts, folder, schema in schemas:
        for _, table in read_parts(parts, schema.names):
            if not table.schema.equals(schema):
                continue  # other channels or another width: nothing of it can be valid
            valid = table.filter(pa.array(_valid(table, keys, identity.processing_key), pa.bool_()))
            if valid.num_rows:
                write_part(folder, pa.table(valid.columns, schema=schema))
                copied += valid.num_rows
    return copied


def _valid(table: pa.Table, keys: dict[str, str], processing_key: str) -> list[bool]:
    columns = (table[name].to_pylist() for name in ("row_key", *WINDOW_COLUMNS))
    return [
        unit in keys and key == row_key(keys[unit], window, processing_key)
        for unit, key, *window in zip(unit_ids(table), *columns, strict=True)
    ]


def _input_differences(before: pa.Table, after: pa.Table) -> list[str]:
    old, new = _sources(before), _sources(after)
    groups = (
        ("images are new in the input list", [name for name in new if name not in old]),
        ("images are gone from the input list", [name for name in old if name not in new]),
        (
            "images have other files or pixel sizes, or files changed since",
            [n for n in new if n in old and old[n][0] != new[n][0]],
        ),
        ("images have other cells", [n for n in new if n in old and old[n][1] != new[n][1]]),
    )
    return [f"{len(names):,} {what}: {_examples(names)}" for what, names in groups if names]


def _sources(records: pa.Table) -> dict[str, tuple[str, Any]]:
    boxes = records["boxes"].to_pylist() if "boxes" in records.column_names else [None] * records.num_rows
    keys = records["record_key"].to_pylist()
    return dict(zip(unit_ids(records), zip(keys, boxes, strict=True), strict=True))


def _examples(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= _flatten(item, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = list(item) if isinstance(item, tuple) else item
    return flat

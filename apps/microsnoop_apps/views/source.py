"""An AnnData file and the run it was made from: whose images, which channels. Nothing is guessed.

A run directory that is gone, or is another than the file was made from, is an error that says so: a picture of the
wrong cell would look just as good as one of the right cell.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import pyarrow as pa
import pyarrow.compute as pc

from microsnoop.core.config import EmbedConfig
from microsnoop.core.errors import ConfigError, InputError, RunError
from microsnoop.core.schema import Key
from microsnoop.io.store import RunStore
from microsnoop_integrations.anndata_io import export, read

Row = dict[str, Any]

# settings that decide neither which pixels a row has nor how they were scaled
_NO_MATTER = {"run_dir", "execution", "export", "fuse", "max_reject_fraction"}


@dataclass(frozen=True)
class RunData:
    """An AnnData file and the run it was made from."""

    path: Path
    data: ad.AnnData
    store: RunStore

    @functools.cached_property
    def cfg(self) -> EmbedConfig:
        """The settings of the run."""
        return EmbedConfig.model_validate({**self.store.info["config"], "run_dir": str(self.store.path)})

    @property
    def channels(self) -> list[str]:
        """The channels of the run, in order."""
        return list(self.store.identity["channels"])

    @functools.cached_property
    def records(self) -> pa.Table:
        """The input list of the run."""
        return self.store.records

    @property
    def level(self) -> str:
        """What a row of the file is: ``sample``, ``image`` or ``field``."""
        return str(self.data.uns[Key.UNS]["level"])

    def records_of(self, image_ids: Iterable[str]) -> dict[str, list[Row]]:
        """Return the records of some images: one each, or one for each block of a large field.

        Raises
        ------
        RunError
            An image that the run does not know.
        """
        wanted = list(dict.fromkeys(image_ids))
        chosen = pc.is_in(self.records["image_id"], value_set=pa.array(wanted, pa.string()))
        records: dict[str, list[Row]] = {image_id: [] for image_id in wanted}
        for record in self.records.filter(chosen).to_pylist():
            records[record["image_id"]].append(record)
        missing = [image_id for image_id in wanted if not records[image_id]]
        if missing:
            raise RunError(
                f"{self.path} has rows of images that the run {self.store.path} does not know: "
                f"{examples(missing)}",
                hint="--run RUN_DIR names the run that the file was made from",
            )
        return records

    def in_file(self, channels: Sequence[str]) -> list[str | int]:
        """Return the names or positions that some channels of the run have in the source files.

        Raises
        ------
        ConfigError
            A channel that the run does not have.
        """
        names, choice = self.channels, self.cfg.input.channels
        unknown = [channel for channel in channels if channel not in names]
        if unknown:
            raise ConfigError(
                f"the run has no channel {examples(unknown)}", hint=f"it has {', '.join(names)}"
            )
        asked = list(choice.values() if isinstance(choice, Mapping) else choice or names)
        return [asked[names.index(channel)] for channel in channels]


def open_data(path: Path, run: Path | None = None) -> RunData:
    """Open an AnnData file with the run it was made from, or a run directory, row by row.

    Parameters
    ----------
    run
        Where the run directory is now, if it was moved.

    Raises
    ------
    InputError, ConfigError
        Not a file of ours.
    RunError
        The run directory is gone, or is another one.
    """
    if (path / "run.json").is_file():
        if run is not None:
            raise ConfigError(f"{path} is a run directory itself", hint="--run is for .h5ad and .zarr files")
        with tempfile.TemporaryDirectory() as folder:
            data = read(export(path, Path(folder) / "rows.h5ad", level="sample"))
        return RunData(path, data, RunStore(path))
    data = _read(path)
    made_from = dict(data.uns.get(Key.UNS) or {})
    if not {"run_dir", "level", "config_json", "encoder_sha256"} <= made_from.keys():
        raise InputError(
            f'{path} does not say which run it was made from: uns["{Key.UNS}"] is missing or incomplete',
            hint="use a file that `microsnoop embed`, `export` or `umap --save` wrote",
        )
    store = RunStore(Path(made_from["run_dir"]) if run is None else run)
    if not store.exists:
        where = f"was made from the run {store.path}, which" if run is None else f"needs its run, but {run}"
        raise RunError(
            f"{path} {where} is not there: the pixels are found through its records",
            hint="say where the run directory is now with --run RUN_DIR; a relative path counts from the working "
            "directory",
        )
    _check_same_run(path, made_from, store)
    return RunData(path, data, store)


def _check_same_run(path: Path, made_from: Mapping[str, Any], store: RunStore) -> None:
    before = json.loads(made_from["config_json"])
    config = store.info["config"]
    names = sorted((before.keys() | config.keys()) - _NO_MATTER)
    other = [name for name in names if before.get(name) != config.get(name)]
    if store.identity.get("encoder_sha256", made_from["encoder_sha256"]) != made_from["encoder_sha256"]:
        other.append("the encoder's weights")
    if other:
        raise RunError(
            f"{path} was not made from the run {store.path}: they differ in {', '.join(other)}",
            hint="--run RUN_DIR names the run that the file was made from",
        )


def _read(path: Path) -> ad.AnnData:
    if path.suffix not in (".h5ad", ".zarr"):
        raise ConfigError(f"{path} is neither a run directory nor an .h5ad or .zarr file")
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        return read(path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read as AnnData: {error}") from error


def examples(names: Sequence[str], count: int = 3) -> str:
    """Return the first few names, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")

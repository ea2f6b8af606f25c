"""Where transcripts and embeddings come from: files, run directories, spots, seqFISH+ folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import anndata as ad
import pandas as pd

from microsnoop.core.errors import ConfigError, InputError
from microsnoop.core.joint_config import JointInput, SeqfishInput, SpotsInput
from microsnoop.io.store import RunStore
from microsnoop_apps.profiling.loading import place_of
from microsnoop_integrations.anndata_io import export, read
from microsnoop_integrations.joint.joining import join_embeddings, reject_frame

if TYPE_CHECKING:
    from microsnoop_integrations.spatial import Spots


@dataclass(frozen=True)
class Sources:
    """Two modalities under the same names, as they were given, and what was lost on the way here.

    ``ids`` are all cells that either modality, or the table that counts were read from, knows: each is in ``rna`` and
    ``image``, in one of them, or in ``rejects``. ``n_rna`` and ``n_image`` count the rows that were read.
    """

    rna: ad.AnnData
    image: ad.AnnData
    ids: frozenset[str]
    n_rna: int
    n_image: int
    rejects: pd.DataFrame
    notes: tuple[str, ...]
    names: dict[str, str]  # what was read


def read_sources(given: JointInput, *, root: str) -> Sources:
    """Read both modalities and join them by id.

    Raises
    ------
    ConfigError
        The column of ids that is asked for is not there.
    InputError, JointError
        Nothing there, not readable, ids that repeat, or no id in common.
    """
    if given.mudata is not None:
        return _of_mudata(given, place_of(given.mudata, root))
    if given.seqfish is not None:
        return _of_seqfish(given, given.seqfish, root=root)
    rejects = reject_frame([])
    notes: tuple[str, ...] = ()
    if given.spots is not None:
        spots, origin = _spots(given.spots, root)
        rna, rejects, notes = spots.rna, spots.rejects, spots.notes
    else:
        origin = place_of(str(given.rna), root)
        rna = read_anndata(origin, "transcripts")
    place = place_of(str(given.image), root)
    images = read_embeddings(place, hint=_how_to_embed(given))
    if "join_key" in given.model_fields_set and given.join_key and given.join_key not in images.obs:
        raise ConfigError(
            f"input.join_key: the embeddings have no column {given.join_key!r}",
            hint=f"they have {', '.join(map(str, images.obs.columns)) or 'none'}; '' joins by row names",
        )
    image, alone = join_embeddings(rna, images, key=given.join_key, join=given.join)
    named = given.join_key and given.join_key in images.obs
    theirs = (images.obs[given.join_key] if named else images.obs_names).astype(str)
    return Sources(
        rna=rna[image.obs_names].copy(),
        image=image,
        ids=frozenset(rna.obs_names.astype(str)) | frozenset(theirs) | frozenset(rejects["obs_id"]),
        n_rna=rna.n_obs,
        n_image=images.n_obs,
        rejects=pd.concat([rejects, alone], ignore_index=True),
        notes=notes,
        names={"transcripts": origin, "images": place},
    )


def read_anndata(place: str, what: str) -> ad.AnnData:
    """Read ``.h5ad`` or ``.zarr``.

    Raises
    ------
    InputError
        Nothing there, or not AnnData.
    """
    path = Path(place)
    if path.suffix not in (".h5ad", ".zarr"):
        raise InputError(
            f"{what}: {path} is neither .h5ad nor .zarr",
            hint="write it with anndata: data.write_h5ad('cells.h5ad')",
        )
    if not path.exists():
        raise InputError(f"{what}: there is no file {path}")
    try:
        return read(path)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(f"{what}: {path} is not an AnnData file: {error}") from error


def read_embeddings(place: str, *, hint: str = "") -> ad.AnnData:
    """Read embeddings, one row a cell: a run directory (or the folder with one as ``run``), ``.h5ad``, ``.zarr``.

    Raises
    ------
    InputError
        Nothing there; ``hint`` says how to make it.
    """
    path = Path(place)
    if (run := run_directory(path)) is not None:
        with TemporaryDirectory() as folder:  # reading leaves nothing beside the run
            return read(export(RunStore(run), Path(folder) / "cells.h5ad"))
    if path.suffix in (".h5ad", ".zarr") and path.exists():
        return read_anndata(place, "images")
    found = "is no run directory" if path.exists() else "is not there"
    raise InputError(f"images: {path} {found}: no embeddings to join", hint=hint)


def run_directory(path: Path) -> Path | None:
    """Return the run directory that a path means, None where there is none."""
    return next((run for run in (path, path / "run") if (run / "run.json").is_file()), None)


def _how_to_embed(given: JointInput) -> str:
    """Say what makes the embeddings that are not there."""
    folder = str(given.image)
    if given.spots is not None:
        section = "" if given.spots.section is None else f", section={given.spots.section!r}"
        return (
            "first write its tables, in Python: from microsnoop_integrations.spatial import read_spots, "
            f"write_patch_inputs; write_patch_inputs(read_spots({given.spots.source!r}{section}), {folder!r}); "
            f"then run: microsnoop embed {folder}/embed.yaml"
        )
    if given.seqfish is not None:
        return (
            "first write its tables with microsnoop_integrations.seqfish.write_embedding_inputs(data, images, "
            f"{folder!r}, ...) (docs/multimodal-inputs.md), then run: microsnoop embed {folder}/embed.yaml"
        )
    return f"make them first, e.g.: microsnoop embed --cells cells.csv ... --run-dir {folder}"


def _of_mudata(given: JointInput, place: str) -> Sources:
    from microsnoop_integrations.joint.mudata_io import read_mudata

    data = read_mudata(place)
    for name in (given.rna_name, given.image_name):
        if name not in data.mod:
            raise ConfigError(
                f"input: {place} has no modality {name!r}, it has {', '.join(data.mod)}",
                hint="name them under input.rna_name and input.image_name",
            )
    rna, image = data[given.rna_name], data[given.image_name]
    for name in data.obs:  # what is known of the whole is known of its cells
        if str(name).split(":")[0] not in data.mod and name not in rna.obs:
            rna.obs[name] = data.obs[name].reindex(rna.obs_names)
    ids = frozenset(rna.obs_names.astype(str)) | frozenset(image.obs_names.astype(str))
    names = {"transcripts": f"{place} ({given.rna_name})", "images": f"{place} ({given.image_name})"}
    return Sources(rna, image, ids, rna.n_obs, image.n_obs, reject_frame([]), (), names)


def _spots(given: SpotsInput, root: str) -> tuple[Spots, str]:
    from microsnoop_integrations.spatial import read_spots

    place = place_of(given.source, root)
    spots = read_spots(
        place,
        section=given.section,
        image=place_of(given.picture, root) if given.picture else None,
        pixel_size_um=given.pixel_size_um,
    )
    return spots, f"{place}, section {spots.section}"


def _of_seqfish(given: JointInput, cells: SeqfishInput, *, root: str) -> Sources:
    from microsnoop_integrations.seqfish import join_embeddings as join_cells
    from microsnoop_integrations.seqfish import read_seqfish

    folder, place = place_of(cells.folder, root), place_of(str(given.image), root)
    data = read_seqfish(folder, tissue=cells.tissue, field=cells.field, pixel_size_um=cells.pixel_size_um)
    images = read_embeddings(place, hint=_how_to_embed(given))
    links = (
        Path(cells.cells) if cells.cells else (run_directory(Path(place)) or Path(place)).parent / "cells.csv"
    )
    if not links.is_file():
        raise InputError(
            f"seqfish: there is no {links}, which says whose embedding is whose",
            hint="name the cells.csv that write_embedding_inputs wrote under input.seqfish.cells",
        )
    joined = join_cells(data, images, cells=links, join=given.join)
    facts = joined.uns["seqfish"]
    return Sources(
        rna=joined["rna"],
        image=joined["image"],
        ids=frozenset(joined.obs_names.astype(str)) | frozenset(facts["rejects"]["obs_id"]),
        n_rna=data["rna"].n_obs,
        n_image=images.n_obs,
        rejects=facts["rejects"],
        notes=(
            f"licence of the transcripts: {facts['licence']}",
            *(f"not in the folder: {what}" for what in facts["missing"]),
        ),
        names={"transcripts": folder, "images": place},
    )

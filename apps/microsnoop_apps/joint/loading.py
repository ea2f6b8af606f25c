"""From a configuration to paired cells with their annotations; every cell that leaves is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.core.errors import ConfigError
from microsnoop.core.joint_config import JointConfig
from microsnoop.core.muse_config import MuseParameters
from microsnoop.io.profile_columns import shorten
from microsnoop_apps.joint.sources import Sources, read_sources

if TYPE_CHECKING:
    from microsnoop_integrations.joint.paired import Paired

_MOST_LABELS = 0.5  # labels a cell: more of them are measurements or names


@dataclass(frozen=True)
class Annotation:
    """Known labels of the paired cells: ``values`` text (n,), ``known`` bool (n,)."""

    name: str
    values: NDArray[np.object_]
    known: NDArray[np.bool_]

    @property
    def n_labels(self) -> int:
        """Number of different labels."""
        return len(np.unique(self.values[self.known].astype(str)))


@dataclass(frozen=True)
class Loaded:
    """Paired cells ready for every method, and where all others went."""

    paired: Paired
    sources: Sources
    labels: tuple[Annotation, ...]
    groups: NDArray[np.object_] | None
    standardised: bool
    notes: tuple[str, ...]

    @property
    def rejects(self) -> pd.DataFrame:
        """A row for every cell and modality that is not in the pair."""
        return pd.concat([self.sources.rejects, self.paired.rejects], ignore_index=True)

    @property
    def n_groups(self) -> int:
        """Number of groups; 0 where none are known."""
        return 0 if self.groups is None else len(set(self.groups))

    @property
    def encoder(self) -> Mapping[str, Any]:
        """What the embeddings say of the encoder that made them; empty where they say nothing."""
        found: Mapping[str, Any] = self.sources.image.uns.get("microsnoop", {})
        return found

    def balance(self) -> str:
        """Return where all cells went, in one sentence."""
        n_in, n_out = len(self.sources.ids), len(self.paired.obs_ids)
        lost = self.rejects.drop_duplicates("obs_id")
        codes = ", ".join(f"{code} {n:,}" for code, n in lost["code"].value_counts().items())
        return (
            f"{n_in:,} cells {'=' if n_in == n_out + len(lost) else '≠'} {n_out:,} paired + {len(lost):,} rejected"
            + (f" ({codes})" if codes else "")
            + f"; read: {self.sources.n_rna:,} rows of transcripts, {self.sources.n_image:,} of images"
        )


def load(config: JointConfig, *, root: str) -> Loaded:
    """Read, join, check and prepare the cells of a joint analysis.

    Raises
    ------
    ConfigError
        A column that is not there, or is no annotation.
    InputError, JointError
        Nothing there, or modalities that cannot be analysed together.
    """
    from microsnoop_integrations.joint.pairing import pair

    if config.input is None:
        raise ConfigError("there is no input to read")
    sources = read_sources(config.input, root=root)
    prepared: dict[str, Any] = {
        "join": config.input.join, "input": config.transcripts.input, "n_genes": config.transcripts.n_genes,
        "target_sum": config.transcripts.target_sum, "components": config.image.components,
        "image_layer": config.image.layer, "k": config.muse.k, "seed": config.seed,
    }  # fmt: skip
    standardise = config.image.standardise == "yes"
    paired = pair(sources.rna, sources.image, standardise=standardise, **prepared)
    if config.image.standardise == "auto" and config.image.components is not None:
        standardise = _is_better_standardised(paired, config)
        if standardise:
            paired = pair(sources.rna, sources.image, standardise=True, **prepared)
    obs = paired.obs
    notes = [*sources.notes, *paired.notes]
    labels = tuple(_annotation(obs, name, notes) for name in config.labels)
    groups = _groups(obs, config.groups, notes) if config.groups is not None else None
    return Loaded(paired, sources, labels, groups, standardise, tuple(notes))


def _is_better_standardised(paired: Paired, config: JointConfig) -> bool:
    """Whether image clusters are easier to find again in other cells once features have a variance of 1."""
    from microsnoop_integrations.muse.image_scaling import reduce_images

    parameters: MuseParameters = config.muse.model_copy(
        update={"image_components": config.image.components, "image_standardise": "auto", "seed": config.seed}
    )
    reduction = reduce_images(np.asarray(paired.y_raw), paired.image_features, parameters)
    return bool((reduction.sd != 1).any())


def _annotation(obs: pd.DataFrame, name: str, notes: list[str]) -> Annotation:
    column = _column(obs, name, "labels")
    known = column.notna().to_numpy() & (column.astype(str) != "").to_numpy()
    values = column.astype(object).where(known, None).map(str, na_action="ignore").to_numpy(object)
    n_labels = len(set(values[known]))
    if n_labels > _MOST_LABELS * max(known.sum(), 1):
        raise ConfigError(
            f"labels: {name!r} has {n_labels:,} values in {known.sum():,} cells: that is no annotation",
            hint="name a column of cell types, layers or clusters",
        )
    if not known.all():
        notes.append(f"{(~known).sum():,} of {len(known):,} cells have no {name}: not in its scores")
    if n_labels < 2:
        notes.append(f"{name} has {n_labels} label(s) in these cells: nothing to score")
    return Annotation(name, values, known)


def _groups(obs: pd.DataFrame, name: str, notes: list[str]) -> NDArray[np.object_]:
    column = _column(obs, name, "groups")
    if column.isna().any():
        raise ConfigError(
            f"groups: {int(column.isna().sum()):,} of {len(column):,} cells have no {name}",
            hint="every cell needs a group; leave `groups` out to draw single cells",
        )
    groups = column.astype(str).to_numpy(object)
    if len(set(groups)) == 1:
        notes.append(f"all cells have the same {name}: intervals are over cells")
    return groups


def _column(obs: pd.DataFrame, name: str, key: str) -> pd.Series:
    if name not in obs:
        raise ConfigError(
            f"{key}: the cells have no column {name!r}",
            hint=f"they have {shorten(list(map(str, obs.columns))) if len(obs.columns) else 'none'}",
        )
    return obs[name]

"""Two modalities of the same cells, and what new cells need to be made ready in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from microsnoop.core.errors import JointError
from microsnoop_integrations.joint.image_features import ImageReduction, read_features
from microsnoop_integrations.joint.transcripts import (
    TranscriptSteps,
    as_float32,
    log_normalise,
    read_matrix,
)


@dataclass(frozen=True)
class Preparation:
    """What new cells need to be made ready as the training cells were."""

    transcripts: TranscriptSteps
    image: ImageReduction

    def facts(self) -> dict[str, Any]:
        """Return names and settings, as JSON can hold them."""
        return {"transcripts": self.transcripts.facts(), "image_features": list(self.image.features)}

    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return the numbers; see :class:`ImageReduction`."""
        return self.image.arrays()

    @classmethod
    def from_parts(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Preparation:
        """Return what :meth:`facts` and :meth:`arrays` described."""
        features = tuple(map(str, facts["image_features"]))
        return cls(
            TranscriptSteps.from_facts(facts["transcripts"]), ImageReduction.from_arrays(features, arrays)
        )


@dataclass(frozen=True)
class Paired:
    """Two modalities of the same n cells. Rows of all arrays are sorted by id.

    Attributes
    ----------
    x
        (n, p) float32, CSR or dense: log-normalised transcripts of the chosen genes.
    y
        (n, c) float32: image features, reduced.
    obs_ids
        n ids, ascending.
    order
        (n,) int64: ``x[order]`` is in the order of the transcripts that were given.
    rejects
        A row for every cell that is not in the pair: ``obs_id, modality, code, message``. Codes: ``unpaired``,
        ``empty_cell``, ``not_finite``.
    notes
        Sentences that a reader of any result must know.
    preparation
        What new cells need.
    dropped_genes
        Names of the genes that no cell has.
    sources, rows
        The transcripts and images as they were given, and which of their rows these are, int64 (n,) each. They are
        not copied, and must not be changed before ``counts``, ``expression`` and ``y_raw`` were read.
    totals
        Sums of the values of both, by which a change is noticed.
    image_layer
        Where the image features stand in their source; None is ``X``.
    """

    x: Any
    y: NDArray[np.float32]
    obs_ids: tuple[str, ...]
    order: NDArray[np.int64]
    rejects: pd.DataFrame
    notes: tuple[str, ...]
    preparation: Preparation
    dropped_genes: tuple[str, ...]
    sources: tuple[ad.AnnData, ad.AnnData]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    totals: tuple[float, float]
    image_layer: str | None = None

    @property
    def genes(self) -> tuple[str, ...]:
        """Names of the columns of ``x``."""
        return self.preparation.transcripts.genes

    @property
    def image_features(self) -> tuple[str, ...]:
        """Names of the image features that ``y`` was made of; constant ones are not among them."""
        return self.preparation.image.features

    @property
    def y_names(self) -> tuple[str, ...]:
        """Names of the columns of ``y``: components, or image features where these are passed on as they are."""
        if not self.preparation.image.axes.shape[1]:
            return self.image_features
        return tuple(f"component_{i}" for i in range(self.y.shape[1]))

    @property
    def y_raw(self) -> NDArray[Any]:
        """Image features as they were given, (n, q): the columns ``image_features``."""
        values, names = read_features(self.sources[1], self.image_layer)
        columns = pd.Index(names).get_indexer(pd.Index(self.image_features))
        return self._unchanged(values[np.ix_(self.rows[1], columns)], 1)

    @property
    def counts(self) -> Any:
        """Counts of all genes of the source (n, P), or None where normalised values were given."""
        return self._measured() if self.preparation.transcripts.input == "counts" else None

    @property
    def expression(self) -> Any:
        """Log-normalised values of all genes of the source, (n, P) float32, CSR or dense."""
        steps = self.preparation.transcripts
        if steps.input == "counts":
            return log_normalise(self._measured(), target_sum=steps.target_sum)
        return as_float32(self._measured())

    @property
    def obs(self) -> pd.DataFrame:
        """Metadata of both; ``rna:`` and ``image:`` stand before names that both have with different values."""
        tables = [
            source.obs.iloc[rows].set_axis(pd.Index(self.obs_ids, name=None))
            for source, rows in zip(self.sources, self.rows, strict=True)
        ]
        same = [name for name in tables[0] if name in tables[1] and tables[0][name].equals(tables[1][name])]
        clash = {name for name in tables[0] if name in tables[1]} - set(same)
        tables[1] = tables[1].drop(columns=same)
        for prefix, table in zip(("rna", "image"), tables, strict=True):
            table.columns = pd.Index([f"{prefix}:{name}" if name in clash else name for name in table])
        return pd.concat(tables, axis=1)

    @property
    def spatial(self) -> NDArray[Any] | None:
        """Positions (n, 2) of the transcripts, else of the images, else None; in the unit of the source."""
        for source, rows in zip(self.sources, self.rows, strict=True):
            if "spatial" in source.obsm:
                return np.asarray(source.obsm["spatial"])[rows]
        return None

    def _measured(self) -> Any:
        matrix = read_matrix(self.sources[0], input=self.preparation.transcripts.input)[0]
        return self._unchanged(matrix[self.rows[0]], 0)

    def _unchanged(self, values: Any, which: int) -> Any:
        """Refuse values that are not those that were paired: many verbs change AnnData in place."""
        if total(values) != self.totals[which]:
            raise JointError(
                "source_changed",
                f"the {('transcripts', 'images')[which]} were changed after they were paired",
                hint="pair them again, or give pair() a copy",
            )
        return values


def total(values: Any) -> float:
    """Return the sum of a dense or sparse matrix, by which a change of it is noticed."""
    # the order of summation, and with it the last digit, depends on how the numbers lie in memory
    return float((values if sparse.issparse(values) else np.ascontiguousarray(values)).sum(dtype=np.float64))

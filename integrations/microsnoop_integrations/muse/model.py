"""MUSE as a model that is fitted, places new cells, and is saved: scikit-learn's manner, on arrays.

Source: Bao et al. 2022; multimodal spec, sections 4, 5, 8 and 9. The published model is neither saved nor applied to
new cells, has no gate, and cannot be trained with fewer than 64 cells.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import JointError
from microsnoop.core.muse_config import MuseParameters
from microsnoop.correction.base import Finding
from microsnoop.models.device import resolve_device
from microsnoop_integrations.graph_clusters import cluster
from microsnoop_integrations.joint.baselines import principal_components
from microsnoop_integrations.joint.image_features import ImageReduction
from microsnoop_integrations.joint.label_transfer import neighbours_labels
from microsnoop_integrations.joint.modality_share import modality_weight
from microsnoop_integrations.joint.paired import Preparation
from microsnoop_integrations.muse.checks import check_cells, check_count, names_of
from microsnoop_integrations.muse.gating import weigh
from microsnoop_integrations.muse.image_scaling import reduce_images
from microsnoop_integrations.muse.modality import Modality, modality
from microsnoop_integrations.muse.network import MuseNetwork
from microsnoop_integrations.muse.placing import check_names, place
from microsnoop_integrations.muse.training import OnEpoch, Trainer

_VOTERS = 15


class Muse:
    """One latent for transcripts and image features of the same cells.

    Parameters
    ----------
    parameters
        See :class:`~microsnoop.core.muse_config.MuseParameters`.
    device
        ``auto``, ``cpu`` or ``cuda``.

    Attributes (after ``fit``)
    --------------------------
    latent_
        (n, Z) float32: joint coordinates of the cells.
    labels_
        (n,) int64: their clusters, numbered by falling size.
    hidden_x_, hidden_y_
        (n, H) float32: each modality's own hidden values.
    weight_x_
        (n,) float32 in [0, 1]: share of the transcripts in a cell's coordinates.
    margin_, history_, phases_, updates_
        Margin of the triplets; terms of the loss by epoch (NaN where there is none) and the phase of each epoch;
        epochs after which labels were renewed.
    replicability_, gates_
        By modality: how well its clusters are found again in other cells, and the weight its triplets got.
    findings_
        What a reader of the result must know.
    about_, preparation_
        What the caller wants to be saved with the model: any text (the encoder of the images and its hash), and how
        :func:`microsnoop_integrations.joint.pair` made both modalities ready.
    """

    names: tuple[str, ...] = ("rna", "image")
    reduction_: ImageReduction | None = None
    obs_ids_: tuple[str, ...]
    genes_: tuple[str, ...]
    features_: tuple[str, ...]
    latent_: NDArray[np.float32]
    labels_: NDArray[np.int64]
    findings_: list[Finding]
    network_: MuseNetwork

    def __init__(self, parameters: MuseParameters | None = None, *, device: str = "auto") -> None:
        self.parameters = parameters or MuseParameters()
        self.device = resolve_device(device)
        self.about_: dict[str, str] = {}
        self.preparation_: Preparation | None = None

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        labels_x: NDArray[Any] | None = None,
        labels_y: NDArray[Any] | None = None,
        obs_ids: Sequence[str] | None = None,
        genes: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Muse:
        """Learn from n cells seen by both modalities, in the same order.

        Parameters
        ----------
        x
            (n, p) transcripts, dense or CSR, not negative: log-normalised counts.
        y
            (n, q) image features, finite. They are scaled and become principal components first, see
            ``image_components``.
        labels_x, labels_y
            (n,) initial labels; default: clusters of the principal components.
        obs_ids, genes, features
            Names of the cells and of both matrices' columns; kept, and checked on new cells.
        on_epoch
            Called with (epochs done, epochs in all, phase, loss).

        Raises
        ------
        JointError
            ``negative_input``, ``not_finite``, ``empty_cell``, ``row_count_mismatch``, ``too_few_cells``,
            ``non_finite_loss``.
        """
        start = time.perf_counter()
        first = modality("rna", x, masked=True)
        n = first.shape[0]
        check_cells(first, np.shape(y)[0])
        second = modality("image", y)
        names = (
            names_of(obs_ids, n, "cell"),
            names_of(genes, first.shape[1], "gene"),
            names_of(features, second.shape[1], "feature"),
        )
        reduction = None
        if self.parameters.image_components is not None:
            reduction = reduce_images(second.values, features, self.parameters)
            second = modality("image", reduction.transform(second.values))
        self.fit_modalities([first, second], labels=[labels_x, labels_y], on_epoch=on_epoch)
        self.reduction_ = reduction
        self.obs_ids_, self.genes_, self.features_ = names
        self.seconds_ = time.perf_counter() - start
        return self

    def fit_modalities(
        self,
        modalities: Sequence[Modality],
        *,
        labels: Sequence[NDArray[Any] | None] | None = None,
        on_epoch: OnEpoch | None = None,
    ) -> Muse:
        """Learn from two or more modalities of the same n cells; the loss is the same sum over all of them.

        Raises
        ------
        JointError
            As :meth:`fit`.
        """
        start = time.perf_counter()
        p = self.parameters
        self.reduction_ = None
        self.obs_ids_ = self.genes_ = self.features_ = ()
        self.names = tuple(m.name for m in modalities)
        counts = {m.shape[0] for m in modalities}
        if len(modalities) < 2 or len(counts) > 1:
            raise JointError("row_count_mismatch", f"two or more modalities of the same cells, got {counts}")
        check_count(counts.pop(), p.k)
        scores = [_scores(m, p) for m in modalities]
        given = labels or [None] * len(modalities)
        initial = [self._initial(s, own) for s, own in zip(scores, given, strict=True)]
        self.replicability_, self.gates_, self.findings_ = weigh(self.names, scores, p)
        trainer = Trainer(modalities, list(self.gates_.values()), p, self.device, on_epoch)
        trainer.run(initial)
        self.network_ = trainer.network.eval()
        self.latent_, self.hidden_ = trainer.encode()
        self.labels_ = self._clusters(self.latent_)
        self.hidden_means_ = np.stack([h.mean(axis=0, dtype=np.float64) for h in self.hidden_]).astype(
            np.float32
        )
        self.margin_ = trainer.margin
        self.history_: dict[str, list[float]] = trainer.history.terms
        self.phases_ = trainer.history.phases
        self.updates_ = trainer.history.updates
        self.label_updates_ = trainer.label_updates
        self.findings_ += trainer.findings
        self.seconds_ = time.perf_counter() - start
        return self

    def fit_transform(self, x: Any, y: Any, **keywords: Any) -> NDArray[np.float32]:
        """Fit, and return ``latent_``."""
        return self.fit(x, y, **keywords).latent_

    @property
    def hidden_x_(self) -> NDArray[np.float32]:
        """Hidden values (n, H) of the transcripts."""
        return self.hidden_[0]

    @property
    def hidden_y_(self) -> NDArray[np.float32]:
        """Hidden values (n, H) of the images."""
        return self.hidden_[1]

    @property
    def weight_x_(self) -> NDArray[np.float32]:
        """Share of the transcripts in each cell's coordinates, see :func:`modality_weight`."""
        return modality_weight(*self.parts()[:2])

    def parts(self) -> list[NDArray[np.float32]]:
        """Return what each modality adds to the latent of each training cell, less its mean: (n, Z)."""
        joint = [part.detach().cpu().numpy() for part in self.network_.joint_parts()]
        centred = (h - m for h, m in zip(self.hidden_, self.hidden_means_, strict=True))
        return [c @ w.T for c, w in zip(centred, joint, strict=True)]

    def transform(
        self,
        x: Any,
        y: Any,
        *,
        missing: str = "error",
        genes: Sequence[str] | None = None,
        features: Sequence[str] | None = None,
    ) -> NDArray[np.float32]:
        """Place m new cells: (m, Z) float32. Genes and features are those of ``fit``, in that order.

        Parameters
        ----------
        x, y
            As for :meth:`fit`. One of them may be None with ``missing="mean"``: the mean hidden values of training
            stand in for it, so that the coordinates are imputed in part.
        missing
            ``error`` or ``mean``.
        genes, features
            Names of the columns: they must be those of ``fit``.

        Raises
        ------
        JointError
            ``feature_mismatch``, ``missing_modality``, ``row_count_mismatch``; and what ``fit`` refuses of values.
        """
        if missing not in ("error", "mean"):
            raise ValueError(f"missing must be error or mean, got {missing!r}")
        if (x is None or y is None) and (missing == "error" or x is y):
            raise JointError(
                "missing_modality",
                "new cells need both modalities",
                hint='missing="mean" fills one of them in',
            )
        check_names(genes, self.genes_, "genes")
        check_names(features, self.features_, "features")
        given: list[Modality | None] = [None if x is None else modality("rna", x, masked=True)]
        given.append(None if y is None else modality("image", self._reduced(y)))
        return place(self.network_, given, self.hidden_means_, device=self.device)

    def transfer_labels(
        self, labels: NDArray[Any], latent: NDArray[np.float32], *, voters: int = _VOTERS
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Give placed cells (m, Z) the label that most of their nearest training cells have.

        Returns
        -------
        Labels (m,), and the share of the votes that each got, float32.
        """
        if len(labels) != len(self.latent_):
            raise ValueError(f"{len(self.latent_)} training cells, but {len(labels)} labels")
        return neighbours_labels(labels, self.latent_, latent, voters=min(voters, len(labels)))

    def save(self, folder: str | Path) -> Path:
        """Write ``muse.safetensors`` and ``muse.json`` to a folder; see :mod:`microsnoop_integrations.muse.files`."""
        from microsnoop_integrations.muse.files import save

        return save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "auto") -> Muse:
        """Read what :meth:`save` wrote."""
        from microsnoop_integrations.muse.files import load

        return load(Path(folder), device=device)

    def _reduced(self, y: Any) -> NDArray[np.float32]:
        if self.reduction_ is None:
            return np.asarray(y, np.float32)
        if np.shape(y)[1] != len(self.reduction_.features):
            raise JointError(
                "feature_mismatch",
                f"image: {len(self.reduction_.features)} features were learned from, {np.shape(y)[1]} are given",
            )
        return self.reduction_.transform(np.asarray(y))

    def _clusters(self, values: NDArray[Any]) -> NDArray[np.int64]:
        p = self.parameters
        return cluster(values, k=p.k, resolution=p.resolution, method=p.clustering, seed=p.seed)

    def _initial(self, scores: NDArray[np.float32], given: NDArray[Any] | None) -> NDArray[np.int64]:
        if given is None:
            return self._clusters(scores)
        if len(given) != len(scores):
            raise JointError("row_count_mismatch", f"{len(given)} initial labels for {len(scores)} cells")
        return np.unique(np.asarray(given), return_inverse=True)[1].astype(np.int64)


def _scores(m: Modality, p: MuseParameters) -> NDArray[np.float32]:
    """Return the principal components whose clusters are a modality's initial labels."""
    count = min(p.label_components, m.shape[0] - 1, m.shape[1])
    return principal_components(m.values, components=count, seed=p.seed).scores

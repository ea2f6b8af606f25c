"""The training of MUSE: reconstruction first, then triplets by the clusters of each modality, which are renewed.

Source: Bao et al. 2022 as released; multimodal spec, sections 3 and 4. Everything is by minibatch: nothing here is as
large as cells × cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from microsnoop.core.errors import JointError
from microsnoop.core.muse_config import MuseParameters
from microsnoop.correction.base import Finding
from microsnoop_integrations.graph_clusters import cluster
from microsnoop_integrations.muse.losses import (
    batch_hard_triplet,
    masked_reconstruction,
    norm,
    pairwise_distances,
)
from microsnoop_integrations.muse.margin import margin
from microsnoop_integrations.muse.modality import Modality
from microsnoop_integrations.muse.network import MuseNetwork
from microsnoop_integrations.muse.schedule import History, Phases, batches, plan

Labels = list[NDArray[np.int64]]
OnEpoch = Callable[[int, int, str, float], None]
_ENCODE_ROWS = 4_096


@dataclass
class Trainer:
    """A network on its way: modalities of the same n cells, a weight of the triplets of each, and what happened."""

    modalities: Sequence[Modality]
    gates: Sequence[float]
    parameters: MuseParameters
    device: str = "cpu"
    on_epoch: OnEpoch | None = None
    network: MuseNetwork = field(init=False)
    history: History = field(default_factory=History)
    findings: list[Finding] = field(default_factory=list)
    margin: float = 0.0
    label_updates: list[Labels] = field(default_factory=list)

    def __post_init__(self) -> None:
        p = self.parameters
        self._names = [m.name for m in self.modalities]
        self._n = self.modalities[0].shape[0]
        self._batch = min(p.batch_size, self._n)
        self._rng = np.random.default_rng(p.seed)
        self.phases: Phases = plan(self._n, p)
        self.network = MuseNetwork([m.shape[1] for m in self.modalities], hidden=p.hidden, latent=p.latent)
        # drawn on the CPU, so that all devices start alike
        self.network.initialise(torch.Generator().manual_seed(p.seed))
        self.network.to(self.device)
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=p.lr, fused=True)

    def run(self, labels: Labels) -> None:
        """Train from (n,) initial labels of each modality.

        Raises
        ------
        JointError
            ``non_finite_loss``, with the epoch and the term.
        """
        with _one_thread():
            self._train(labels)

    def _train(self, labels: Labels) -> None:
        p, phases = self.parameters, self.phases
        self._phase("reconstruct", phases.reconstruct, None)
        if not self.history.learns("reconstruct"):
            self._find(
                "not_learning", "the loss did not fall while only reconstruction was learned", strong=True
            )
        if p.lambda_super == 0:
            self._phase("main", phases.triplets + phases.main, None)
            return
        latent, _ = self.encode()
        self.margin = margin(latent, sample=p.margin_sample, rng=self._rng)
        if self.margin == 0:
            self._find("flat_latent", "all cells are equally far apart: triplets have no margin", strong=True)
        self._phase("triplets", phases.triplets, self._checked(labels))
        self._phase("main", phases.main, self._renewed(), renew=True)

    def encode(self) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """Return the latent (n, Z) and the hidden values (n, H) of each modality, of all cells."""
        return encode(self.network, self.modalities, device=self.device)

    def _phase(self, phase: str, epochs: int, labels: Labels | None, *, renew: bool = False) -> None:
        for epoch in range(epochs):
            self._epoch(phase, labels)
            if renew and epoch % self.phases.update_every == 0:
                labels = self._renewed()
            if self.on_epoch is not None:
                loss = self.history.terms["loss"][-1]
                self.on_epoch(len(self.history.phases), self.phases.total, phase, loss)
            if self.history.stalls(phase, self.parameters.patience):
                break

    def _epoch(self, phase: str, labels: Labels | None) -> None:
        sums: dict[str, Tensor | float] = {}
        count = 0
        drop_last = self.parameters.drop_last
        for rows in batches(self._n, self._batch, drop_last=drop_last, rng=self._rng):
            values = [m.rows(rows).to(self.device) for m in self.modalities]
            theirs = None if labels is None else [torch.from_numpy(v[rows]).to(self.device) for v in labels]
            terms = self._terms(values, theirs)
            self._optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            self._optimiser.step()
            count += 1
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + term.detach()
        means = {name: float(total) / count for name, total in sums.items()}
        odd = [name for name, value in means.items() if not np.isfinite(value)]
        if odd:
            raise JointError(
                "non_finite_loss",
                f"epoch {len(self.history.phases)} ({phase}): {', '.join(odd)} is not finite",
                hint="lower lr, or look for extreme values in the input",
            )
        self.history.add(phase, means)

    def _terms(self, values: list[Tensor], labels: list[Tensor] | None) -> dict[str, Tensor]:
        """Return the terms of the loss of one batch, by name; ``loss`` is their weighted sum."""
        p = self.parameters
        found = self.network(values)
        terms: dict[str, Tensor] = {}
        learned = values[0].new_zeros(())
        for m, given, decoded in zip(self.modalities, values, found.decoded, strict=True):
            term = self._reconstruction(m, given, decoded)
            terms[f"reconstruction_{m.name}"] = term
            learned = learned + m.weight * term
        if labels is not None:
            distances = pairwise_distances(found.latent)
            for name, gate, own in zip(self._names, self.gates, labels, strict=True):
                term = batch_hard_triplet(
                    distances, own, margin=self.margin, row_max_without_negative=p.triplet_row_max
                )
                terms[f"triplet_{name}"] = term
                learned = learned + p.lambda_super * gate * term
        penalty = torch.stack([norm(weights) for weights in self.network.selections()]).sum()
        return {**terms, "learned": learned, "penalty": penalty, "loss": learned + p.lambda_regul * penalty}

    def _reconstruction(self, modality: Modality, given: Tensor, decoded: Tensor) -> Tensor:
        if modality.masked:
            return masked_reconstruction(given, decoded)
        error = norm(decoded - given)
        return error / given.numel() ** 0.5 if self.parameters.recon == "mean" else error

    def _renewed(self) -> Labels:
        """Cluster the hidden values of each modality anew."""
        p = self.parameters
        _, hidden = self.encode()
        labels = [
            cluster(h, k=p.k, resolution=p.resolution, method=p.clustering, seed=p.seed) for h in hidden
        ]
        self.history.updates.append(len(self.history.phases))
        self.label_updates.append(labels)
        return self._checked(labels)

    def _checked(self, labels: Labels) -> Labels:
        for name, own in zip(self._names, labels, strict=True):
            if len(np.unique(own)) == 1:
                self._find(
                    "single_cluster", f"{name} has one cluster only: its triplets teach nothing for a while"
                )
        return labels

    def _find(self, code: str, message: str, *, strong: bool = False) -> None:
        finding = Finding(code, message, strong)
        if finding not in self.findings:
            self.findings.append(finding)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one CPU thread: steps are so small that threads mostly wait for each other.

    Two of them gain little on an idle machine, and were seen to be fifty times slower on a busy one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def encode(
    network: MuseNetwork, modalities: Sequence[Modality], *, device: str
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Return the latent (n, Z) and the hidden values (n, H) of each modality, a block of cells at a time."""
    latents, hiddens = [], []
    for start in range(0, modalities[0].shape[0], _ENCODE_ROWS):
        rows = slice(start, start + _ENCODE_ROWS)
        latent, hidden = network.encode([m.rows(rows).to(device) for m in modalities])
        latents.append(latent.cpu().numpy())
        hiddens.append([h.cpu().numpy() for h in hidden])
    return np.concatenate(latents), [np.concatenate(parts) for parts in zip(*hiddens, strict=True)]

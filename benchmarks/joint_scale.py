"""Fit MUSE to as many cells as a large experiment has: time by part, and the memory that the process held at most.

    python benchmarks/joint_scale.py --cells 100000

Cells of known clusters are generated in blocks: transcripts as CSR, log-normalised counts of which some 10 % are not
zero, and image features that see only a part of the clusters. A matrix of cells × cells would take 40 GB as float32 for
100,000 cells, and 10 GB with a byte an entry: what stays below the limit (8 GB) cannot have held one. The exit code is
1 where it did not.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import resource
import sys
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from peak_memory import peak_memory_of_this_process
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from microsnoop.core.muse_config import MuseParameters
from microsnoop_integrations.muse.model import Muse

BLOCK = 4_096
CLUSTERS = 20
COUNTS = 250.0  # transcripts of a cell: makes about 10 % of 2,000 genes more than zero
# what a fit is made of: text, and the function whose time it is
PARTS = (
    ("images made ready", "reduce_images"),
    ("components for labels", "_scores"),
    ("initial labels", "_initial"),
    ("replicability, all calls", "replicability"),
    ("training steps", "_epoch"),
    ("renewed labels", "_renewed"),
    ("margin", "margin"),
    ("all clusters", "cluster"),
)
WITHIN = (
    ("neighbours, exact", "nearest_neighbours"),
    ("neighbours, approximate", "_descend"),
    ("Jaccard weights", "jaccard_graph"),
    ("Leiden", "cluster_graph"),
)


@dataclass
class Phases:
    """How long each phase of the training took, by the time at the end of its epochs; the very first is not timed."""

    begin: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    def __call__(self, done: int, total: int, phase: str, loss: float) -> None:
        """Take the end of an epoch; what lies between two of them counts for the later one."""
        now = time.perf_counter()
        if self.begin is not None:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.begin
            self.epochs[phase] = self.epochs.get(phase, 0) + 1
        self.begin = now
        print(f"  epoch {done}/{total} {phase}, loss {loss:.4g}", flush=True)


def generate(
    cells: int, genes: int, dims: int, *, seed: int
) -> tuple[sparse.csr_matrix, NDArray[np.float32], NDArray[np.int64]]:
    """Draw (cells, genes) CSR and (cells, dims) float32 and the true clusters; images see pairs of clusters as one."""
    rng = np.random.default_rng(seed)
    label = rng.integers(CLUSTERS, size=cells)
    rates = rng.gamma(0.5, size=genes) * rng.lognormal(sigma=0.8, size=(CLUSTERS, genes))
    rates *= COUNTS / rates.sum(axis=1, keepdims=True)
    centres = rng.normal(size=(CLUSTERS // 2, 24)) @ rng.normal(size=(24, dims))
    x, y = [], np.empty((cells, dims), np.float32)
    for start in range(0, cells, BLOCK):
        own = label[start : start + BLOCK]
        counts = sparse.csr_matrix(rng.poisson(rates[own]), dtype=np.float32)
        total = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
        counts.data = np.log1p(counts.data * np.repeat(1e4 / total, np.diff(counts.indptr))).astype(
            np.float32
        )
        x.append(counts)
        y[start : start + BLOCK] = centres[own // 2] + 6 * rng.standard_normal((len(own), dims), np.float32)
    return sparse.csr_matrix(sparse.vstack(x, format="csr")), y, label


def seconds_of(profile: cProfile.Profile) -> dict[str, tuple[float, int]]:
    """Return time within each function, what it called included, and how often it was called, by its name."""
    found: dict[str, tuple[float, int]] = {}
    for (path, _, name), (_, calls, _, spent, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if "microsnoop" in path:
            before = found.get(name, (0.0, 0))
            found[name] = (before[0] + spent, before[1] + calls)
    return found


def report(title: str, parts: tuple[tuple[str, str], ...], found: dict[str, tuple[float, int]]) -> None:
    """Print how long parts took; those that are not there (any more) are said to be missing."""
    print(title)
    for text, name in parts:
        spent, calls = found.get(name, (0.0, 0))
        print(f"  {text:<26}{spent:9.1f} s" + (f"  ({calls} times)" if calls else "  (not called)"))


def main() -> int:
    """Generate, fit, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--threads", type=int, help="of all libraries; default: what they choose")
    parser.add_argument("--batch-size", type=int, help="cells a step; default: that of the parameters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit-gb", type=float, default=8.0)
    args = parser.parse_args()
    if args.threads:
        import scipy.linalg  # noqa: F401 - only of what is loaded can threads be limited
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(args.threads)
        threadpool_limits(args.threads)
    begin = time.perf_counter()
    x, y, label = generate(args.cells, args.genes, args.dims, seed=args.seed)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    share = x.nnz / (x.shape[0] * x.shape[1])
    print(
        f"{args.cells:,} cells × ({args.genes:,} genes, {share:.1%} not zero + {args.dims} image features), "
        f"generated in {time.perf_counter() - begin:.0f} s; process so far {held:.2f} GB"
    )
    parameters = MuseParameters(seed=args.seed)
    if args.batch_size:
        parameters = parameters.model_copy(update={"batch_size": args.batch_size})
    phases, profile = Phases(), cProfile.Profile()
    begin, used = time.perf_counter(), time.process_time()
    with peak_memory_of_this_process() as watch:
        profile.enable()
        model = Muse(parameters, device=args.device).fit(x, y, on_epoch=phases)
        profile.disable()
    seconds, used = time.perf_counter() - begin, time.process_time() - used
    found = seconds_of(profile)
    print(f"\nfit {seconds:.0f} s, {used:.0f} s of processors; {args.cells / seconds:,.0f} cells/s")
    report("by part", PARTS, found)
    report("clusters, wherever they are asked for", WITHIN, found)
    print("training by phase, renewed labels and all (the first epoch is not timed)")
    for phase, count in phases.epochs.items():
        print(f"  {phase:<26}{phases.seconds[phase]:9.1f} s  ({count} epochs)")
    peak = max(watch.peak_bytes / 1e9, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    square = args.cells**2 / 1e9
    print(
        f"peak of the process {peak:.2f} GB (proportional set size {watch.peak_bytes / 1e9:.2f}); cells × cells would "
        f"take {4 * square:.1f} GB as float32, {square:.1f} GB with a byte an entry"
    )
    agreement = adjusted_rand_score(label, model.labels_)
    print(
        f"{len(np.unique(model.labels_))} clusters, ARI with the truth {agreement:.2f}; gates {model.gates_}"
    )
    for finding in model.findings_:
        print(f"  {finding.code}: {finding.message}")
    if peak > args.limit_gb:
        print(f"MORE than the limit of {args.limit_gb:g} GB")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

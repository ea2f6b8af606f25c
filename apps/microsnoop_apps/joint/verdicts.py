"""What a reader must know before anything is concluded from a joint analysis: rules over the scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from microsnoop.correction.base import Finding
from microsnoop_apps.joint.experiment import NAMES, NEIGHBOURS, Experiment
from microsnoop_apps.joint.tables import fixed

ALPHA = 0.05
_UNSTABLE = 0.5
_ONE_SIDED = 0.9
_WORTH_SAYING = 0.02  # of ARI
MEASURES = {"kmeans": "k-means", "default": "clusters"}


def judge(experiment: Experiment) -> list[Finding]:
    """Return every finding of an experiment: those of the model itself first."""
    found = [
        *experiment.model.findings_,
        *_pairing(experiment),
        *_null(experiment),
        *_others(experiment),
        *_seeds(experiment),
        *_weights(experiment),
    ]
    if not bool(experiment.loaded.encoder.get("encoder_trained", True)):
        found.append(Finding("untrained_encoder", "the encoder of the images was never trained", strong=True))
    return found


def ranking(experiment: Experiment, label: str, measure: str = "kmeans") -> list[tuple[str, float]]:
    """Return methods and their ARI with a label, the best first; without the wrong pairs.

    ``measure`` is ``kmeans``, or ``default`` for the clusters of the method itself.
    """
    scores = [
        (name, float(getattr(method.labels[label], measure).ari))
        for name, method in experiment.methods.items()
        if name != "shuffled" and label in method.labels
    ]
    return sorted(scores, key=lambda one: -one[1])


def _pairing(experiment: Experiment) -> Iterator[Finding]:
    test = experiment.pairing
    if test.p >= ALPHA:
        yield Finding(
            "pairing_not_seen",
            f"cells that are near in the transcripts are no nearer in the images than in wrong pairs (p {test.p:.2g}): "
            "nothing that both share was found; are the ids right?",
            strong=True,
        )


def _null(experiment: Experiment) -> Iterator[Finding]:
    """Compare the mean of all seeds with the best of all wrong pairings."""
    if "shuffled" not in experiment.runs:
        return
    ours, null = experiment.runs["muse"].values, experiment.runs["shuffled"].values
    keys = [key for key in ours if key != NEIGHBOURS] or [NEIGHBOURS]
    for key in keys:
        mean, best = float(np.mean(ours[key])), max(null[key])
        if mean <= best:
            what = (
                "mean agreement with the neighbours of both modalities"
                if key == NEIGHBOURS
                else f"ARI with {key}"
            )
            yield Finding(
                "null_not_beaten",
                f"{what}: MUSE has {fixed(mean)} (mean of {len(ours[key])} seeds), with wrong pairs up to "
                f"{fixed(best)} ({len(null[key])} shuffles): as far as this measure tells, it learned nothing from "
                "which image belongs to which cell",
                strong=True,
            )


def _others(experiment: Experiment) -> Iterator[Finding]:
    """Name what agrees better with labels than MUSE, by k-means or by clusters: where it is farthest ahead.

    Beyond the interval of MUSE it is a warning; within it, a remark on the modalities alone and on both side by side.
    """
    for label, ours in experiment.muse.labels.items():
        ahead: dict[str, tuple[bool, float, str]] = {}
        for measure, said in MEASURES.items():
            own = getattr(ours, measure)
            for name, value in ranking(experiment, label, measure):
                if name == "muse" or value <= own.ari:
                    continue
                beyond = value > own.ari_interval.high
                text = (
                    f"ARI of {said} {fixed(value)} against {fixed(own.ari)}, {'beyond' if beyond else 'within'} its 95 "
                    f"% interval ({fixed(own.ari_interval.low)} to {fixed(own.ari_interval.high)})"
                )
                ahead[name] = max(ahead.get(name, (False, 0.0, "")), (beyond, value - own.ari, text))
        for name, (beyond, lead, text) in ahead.items():
            if beyond or (lead >= _WORTH_SAYING and name in ("transcripts", "images", "concat")):
                single = name in ("transcripts", "images")
                yield Finding(
                    "single_modality_better" if single else f"{name}_better",
                    f"{NAMES[name]} agree{'' if single else 's'} better with {label} than MUSE: {text}",
                    strong=beyond,
                )


def _seeds(experiment: Experiment) -> Iterator[Finding]:
    found = experiment.runs["muse"].stability
    if found.mean < _UNSTABLE:
        yield Finding(
            "unstable_clusters",
            f"clusters of MUSE hang on the seed: mean ARI between seeds {found.mean:.2f} ({found.low:.2f} to "
            f"{found.high:.2f})",
        )


def _weights(experiment: Experiment) -> Iterator[Finding]:
    weights = experiment.muse.weights
    if weights is None:
        return
    median = weights[0]
    if not 1 - _ONE_SIDED <= median <= _ONE_SIDED:
        which = "transcripts" if median > _ONE_SIDED else "images"
        yield Finding(
            "one_sided", f"the joint coordinates are nearly those of the {which} alone (weight {median:.2f})"
        )

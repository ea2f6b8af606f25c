"""All methods on the same cells: fitted, scored, repeated with other seeds and with wrong pairs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from microsnoop.core.errors import JointError, MissingDependency
from microsnoop.core.joint_config import JointConfig
from microsnoop.core.muse_config import MuseParameters
from microsnoop.correction.base import Finding
from microsnoop_apps.joint.loading import Loaded
from microsnoop_apps.joint.scoring import Labels, Scored, kmeans_agreement, recluster, score
from microsnoop_integrations.joint.measures import PairingTest, Stability, pairing_test, stability
from microsnoop_integrations.joint.representation import Representation

if TYPE_CHECKING:
    from microsnoop_integrations.muse.model import Muse

OnEpoch = Callable[[int, int, str, float], None]
Watch = Callable[[str], AbstractContextManager[OnEpoch | None]]

NAMES = {
    "transcripts": "transcripts", "images": "images", "concat": "concat", "wnn": "WNN", "mofa": "MOFA", "muse": "MUSE",
    "published": "MUSE (published)", "shuffled": "MUSE, shuffled pairs",
}  # fmt: skip
NEIGHBOURS = "neighbours"  # what runs are compared by where no labels are known


@dataclass(frozen=True)
class Runs:
    """The same method several times: ``varied`` says what changed.

    ``values``: for each label, and for ``neighbours`` (mean agreement with both modalities), a number a run.
    """

    varied: str
    stability: Stability
    values: dict[str, list[float]]


@dataclass(frozen=True)
class Experiment:
    """Everything that was found; ``failed`` says why a method has no numbers."""

    config: JointConfig
    loaded: Loaded
    model: Muse
    methods: dict[str, Scored]
    failed: dict[str, str]
    runs: dict[str, Runs]
    pairing: PairingTest
    findings: tuple[Finding, ...] = field(default=())

    @property
    def muse(self) -> Scored:
        """The joint model that is written."""
        return self.methods["muse"]


def run_methods(
    loaded: Loaded,
    config: JointConfig,
    *,
    on_method: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda _: nullcontext(),
) -> Experiment:
    """Fit and score every method on the paired cells.

    Parameters
    ----------
    on_method
        Told the name of each method before it runs.
    watch
        Gives, for a fit of MUSE by that name, what is called after each epoch.

    Raises
    ------
    JointError
        MUSE or a single modality cannot be computed. Other methods that cannot are left out, with their reason.
    """
    paired = loaded.paired
    models: dict[int, Muse] = {}
    methods: dict[str, Scored] = {}
    failed: dict[str, str] = {}
    runs: dict[str, Runs] = {}
    for method in NAMES:
        if method not in config.methods:
            continue
        on_method(NAMES[method])
        if method == "muse":
            models[0], methods[method], runs[method] = _repeated(loaded, config, watch)
        elif method == "shuffled":
            _, methods[method], runs[method] = _repeated(loaded, config, watch, wrong_pairs=True)
        elif method == "published":
            with watch(NAMES[method]) as on_epoch:
                model = fit(
                    loaded, MuseParameters.published(seed=config.seed), config.device, on_epoch=on_epoch
                )
            methods[method] = _scored(model, NAMES[method], loaded, config, paired.y)
        else:
            try:
                found = _baseline(method, loaded, config)
            except (MissingDependency, JointError) as error:
                if method in ("transcripts", "images"):
                    raise
                missing = isinstance(error, MissingDependency)
                failed[method] = f"not installed ({error.hint})" if missing else error.message
                continue
            methods[method] = score(found, loaded, config)
            seeds = range(config.seed, config.seed + config.seeds)
            runs[method] = Runs("clusters", stability(recluster(found, config, seeds=seeds)), {})
    on_method("test of the pairing")
    pairing = pairing_test(
        paired.x, paired.y, k=config.muse.k, permutations=config.permutations, groups=loaded.groups,
        rng=np.random.default_rng(config.seed),
    )  # fmt: skip
    experiment = Experiment(config, loaded, models[0], methods, failed, runs, pairing)
    from microsnoop_apps.joint.verdicts import judge

    return replace(experiment, findings=tuple(judge(experiment)))


def fit(
    loaded: Loaded,
    parameters: MuseParameters,
    device: str,
    *,
    y: NDArray[np.float32] | None = None,
    on_epoch: OnEpoch | None = None,
) -> Muse:
    """Fit MUSE on the paired cells, whose images are reduced already; ``y`` takes the place of theirs."""
    from microsnoop_integrations.muse.model import Muse

    paired = loaded.paired
    model = Muse(parameters.model_copy(update={"image_components": None}), device=device)
    return model.fit(
        paired.x,
        paired.y if y is None else y,
        obs_ids=paired.obs_ids,
        genes=paired.genes,
        features=paired.y_names,
        on_epoch=on_epoch,
    )


def _repeated(
    loaded: Loaded, config: JointConfig, watch: Watch, *, wrong_pairs: bool = False
) -> tuple[Muse, Scored, Runs]:
    """Fit MUSE with every seed, or with one seed on every wrong pairing; score the first."""
    name = NAMES["shuffled" if wrong_pairs else "muse"]
    rng = np.random.default_rng([config.seed, 1])
    first: tuple[Muse, Scored] | None = None
    labels: list[Labels] = []
    values: dict[str, list[float]] = {}
    for number in range(config.shuffles if wrong_pairs else config.seeds):
        y = loaded.paired.y
        if wrong_pairs:
            y = y[rng.permutation(len(y))]
        seed = config.seed if wrong_pairs else config.seed + number
        said = f"{name} {number + 1} of {config.shuffles}" if wrong_pairs else f"{name}, seed {seed}"
        with watch(said) as on_epoch:
            parameters = config.muse.model_copy(update={"seed": seed})
            model = fit(loaded, parameters, config.device, y=y, on_epoch=on_epoch)
        labels.append(model.labels_)
        if first is None:
            first = (model, _scored(model, name, loaded, config, y))
        for key, value in _values(model, loaded, config, y).items():
            values.setdefault(key, []).append(value)
    assert first is not None
    varied = "wrong pairs" if wrong_pairs else "seed of MUSE"
    return *first, Runs(varied, stability(labels), values)


def _scored(model: Muse, name: str, loaded: Loaded, config: JointConfig, y: NDArray[np.float32]) -> Scored:
    found = Representation(
        name, model.latent_, model.labels_, model.weight_x_, model.seconds_,
        tuple(finding.message for finding in model.findings_), model.parameters.model_dump(mode="json"),
    )  # fmt: skip
    return score(found, loaded, config, y=y, hidden=(model.hidden_x_, model.hidden_y_))


def _values(model: Muse, loaded: Loaded, config: JointConfig, y: NDArray[np.float32]) -> dict[str, float]:
    """Return what runs are compared by."""
    from microsnoop_integrations.joint.measures import neighbourhood_agreement

    near = neighbourhood_agreement(model.latent_, loaded.paired.x, y, k=config.muse.k, seed=config.seed)
    known = {
        annotation.name: kmeans_agreement(model.latent_, annotation, seed=config.seed)
        for annotation in loaded.labels
        if annotation.n_labels > 1
    }
    return {NEIGHBOURS: (near.rna + near.image) / 2, **known}


def _baseline(method: str, loaded: Loaded, config: JointConfig) -> Representation:
    from microsnoop_integrations.joint.baselines import concat, single
    from microsnoop_integrations.joint.mofa import mofa
    from microsnoop_integrations.joint.wnn import wnn

    paired, p = loaded.paired, config.muse
    settings: dict[str, Any] = {
        "k": p.k, "resolution": p.resolution, "method": p.clustering, "seed": config.seed,
    }  # fmt: skip
    if method in ("transcripts", "images"):
        return single(paired.x if method == "transcripts" else paired.y, name=method, **settings)
    fits: dict[str, Callable[..., Representation]] = {"concat": concat, "wnn": wnn, "mofa": mofa}
    return fits[method](paired.x, paired.y, **settings)

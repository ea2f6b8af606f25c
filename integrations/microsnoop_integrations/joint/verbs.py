"""Joint analyses as verbs: results stand in the object that was given, under documented keys.

``data`` is MuData, or a mapping of two AnnData by the name of their modality: then the results that belong to both
stand in each of them. Cells that a method did not see (of one modality only, empty, without an image) are NaN,
without a cluster, and counted in a warning. Keys: :mod:`microsnoop_integrations.joint.keys`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from microsnoop_integrations.joint import baselines
from microsnoop_integrations.joint.mofa import FACTORS
from microsnoop_integrations.joint.mofa import mofa as fit_mofa
from microsnoop_integrations.joint.representation import Representation
from microsnoop_integrations.joint.verb_data import initial_labels, modalities_of, paired_of, targets_of
from microsnoop_integrations.joint.wnn import wnn as fit_wnn

if TYPE_CHECKING:
    from microsnoop.core.muse_config import MuseParameters
    from microsnoop_integrations.joint.paired import Paired
    from microsnoop_integrations.muse.model import Muse

K = 30
_NAMES = {"rna": "transcripts", "image": "images"}


def muse(
    data: Any,
    *,
    image: str = "image",
    rna: str = "rna",
    parameters: MuseParameters | None = None,
    seed: int | None = None,
    key_added: str = "muse",
    device: str = "auto",
    labels_image: str | None = None,
    labels_rna: str | None = None,
    on_epoch: Callable[..., Any] | None = None,
    paired: Paired | None = None,
    model: Any = None,
) -> Muse:
    """Fit MUSE on both modalities.

    Writes ``obsm["X_muse"]`` (n, 100), ``obs["muse_leiden"]``, ``obs["muse_weight_rna"]`` and ``uns["muse"]``
    (parameters, history, margin, findings, rejects, and what new cells need), and into each modality
    ``obsm["X_muse_h"]`` (n, 128).

    Parameters
    ----------
    data
        MuData, or a mapping of two AnnData. Changed in place.
    image, rna
        Names of the modalities.
    parameters, seed
        Of the model; ``seed`` replaces that of the parameters.
    key_added
        Takes the place of ``muse`` in all keys.
    device
        ``auto``, ``cpu``, ``cuda``.
    labels_image, labels_rna
        Columns of ``obs`` with initial labels, of the modality or of the whole; every paired cell needs one.
    on_epoch
        Called after each epoch, see ``Muse.fit``.
    paired
        The modalities of ``data``, paired with other settings; see ``joint.pair``. The model reduces image features
        by itself, so that the default is ``components=None``.
    model
        An unfitted model to use in place of ``Muse(parameters, device=device)``.

    Returns
    -------
    The fitted model, to be saved or to place new cells with (``joint.transfer``).

    Raises
    ------
    JointError
        The modalities cannot be analysed together; see ``joint.pair``.
    ValueError
        No such modality or column, or cells without an initial label.
    """
    from microsnoop_integrations.joint.keys import put_hidden, put_muse

    if model is None:
        from microsnoop.core.muse_config import MuseParameters
        from microsnoop_integrations.muse.model import Muse

        changed = {} if seed is None else {"seed": seed}
        model = Muse(MuseParameters(**{**dict(parameters or MuseParameters()), **changed}), device=device)
    sides = modalities_of(data, rna, image)
    # the model scales and reduces image features by itself, and keeps how
    paired = paired_of(sides, paired, k=model.parameters.k, components=None)
    fitted = model.fit(
        paired.x,
        paired.y,
        labels_x=initial_labels(data, sides[0], labels_rna, paired),
        labels_y=initial_labels(data, sides[1], labels_image, paired),
        obs_ids=paired.obs_ids,
        genes=paired.genes,
        features=paired.y_names,
        on_epoch=on_epoch,
    )
    for target in targets_of(data, sides):
        put_muse(target, fitted, paired, key=key_added)
    for side, hidden in zip(sides, (fitted.hidden_x_, fitted.hidden_y_), strict=True):
        put_hidden(side, hidden, paired.obs_ids, key=f"X_{key_added}_h")
    return fitted


def single(
    data: Any,
    modality: str,
    *,
    image: str = "image",
    rna: str = "rna",
    components: int = baselines.COMPONENTS,
    k: int = K,
    resolution: float = 1.0,
    seed: int = 0,
    paired: Paired | None = None,
) -> Representation:
    """See the paired cells by one modality: ``obsm["X_pca"]`` and ``obs["leiden"]`` of ``data[modality]``.

    ``modality`` is the name of one of the two; the rest as for :func:`concat`.
    """
    from microsnoop_integrations.joint.keys import put_representation

    if modality not in (rna, image):
        raise ValueError(f"the modality must be {rna!r} or {image!r}, got {modality!r}")
    sides = modalities_of(data, rna, image)
    paired = paired_of(sides, paired, k=k)
    which = "rna" if modality == rna else "image"
    found = _alone(paired, which, components=components, k=k, resolution=resolution, seed=seed)
    put_representation(
        sides[which == "image"], found, paired.obs_ids, key="joint_pca", obsm_key="X_pca", labels_key="leiden"
    )
    return found


def concat(
    data: Any,
    *,
    image: str = "image",
    rna: str = "rna",
    components: int = baselines.COMPONENTS,
    k: int = K,
    resolution: float = 1.0,
    seed: int = 0,
    key_added: str = "concat",
    paired: Paired | None = None,
) -> Representation:
    """Put both modalities side by side: ``obsm["X_concat"]``, ``obs["concat_leiden"]``, ``uns["concat"]``.

    Parameters
    ----------
    data
        MuData, or a mapping of two AnnData. Changed in place.
    image, rna
        Names of the modalities.
    components
        See :func:`microsnoop_integrations.joint.baselines.concat`.
    k, resolution, seed
        Of the clusters.
    key_added
        Takes the place of ``concat`` in all keys.
    paired
        The modalities of ``data``, paired with other settings than the defaults; see ``joint.pair``.

    Returns
    -------
    What was written, rows in the order of the ids (of ``paired``).

    Raises
    ------
    JointError
        The modalities cannot be analysed together.
    ValueError
        No such modality.
    """

    def fit(paired: Paired) -> Representation:
        return baselines.concat(
            paired.x, paired.y, components=components, k=k, resolution=resolution, seed=seed
        )

    return _joint(data, fit, key_added, names=(rna, image), k=k, paired=paired)


def wnn(
    data: Any,
    *,
    image: str = "image",
    rna: str = "rna",
    components: int = baselines.COMPONENTS,
    k: int = K,
    resolution: float = 1.0,
    seed: int = 0,
    key_added: str = "wnn",
    paired: Paired | None = None,
) -> Representation:
    """Weigh the neighbours of both modalities, cell by cell (extra ``multimodal``).

    Writes ``obsp["wnn_connectivities"]``, ``obsm["X_wnn"]``, ``obs["wnn_leiden"]``, ``obs["wnn_weight_rna"]`` and
    ``uns["wnn"]``. Arguments and errors as for :func:`concat`, and ``MissingDependency``.
    """

    def fit(paired: Paired) -> Representation:
        return fit_wnn(paired.x, paired.y, components=components, k=k, resolution=resolution, seed=seed)

    return _joint(data, fit, key_added, names=(rna, image), k=k, paired=paired)


def mofa(
    data: Any,
    *,
    image: str = "image",
    rna: str = "rna",
    factors: int = FACTORS,
    k: int = K,
    resolution: float = 1.0,
    seed: int = 0,
    key_added: str = "mofa",
    paired: Paired | None = None,
) -> Representation:
    """Explain both modalities by common factors (extra ``multimodal``): ``obsm["X_mofa"]``, ``obs["mofa_leiden"]``.

    ``factors`` to start with; the rest as for :func:`concat`, and ``MissingDependency``.
    """

    def fit(paired: Paired) -> Representation:
        return fit_mofa(paired.x, paired.y, factors=factors, k=k, resolution=resolution, seed=seed)

    return _joint(data, fit, key_added, names=(rna, image), k=k, paired=paired)


def _joint(
    data: Any,
    fit: Callable[[Paired], Representation],
    key: str,
    *,
    names: tuple[str, str],
    k: int,
    paired: Paired | None,
) -> Representation:
    from microsnoop_integrations.joint.keys import put_representation

    sides = modalities_of(data, *names)
    paired = paired_of(sides, paired, k=k)
    found = fit(paired)
    for target in targets_of(data, sides):
        put_representation(target, found, paired.obs_ids, key=key)
    return found


def _alone(paired: Paired, which: str, **settings: Any) -> Representation:
    return baselines.single(paired.x if which == "rna" else paired.y, name=_NAMES[which], **settings)

"""New cells placed by a fitted joint model, and labelled by their neighbours. Spec, section 9."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from microsnoop.ops.knn import Neighbours, vote
from microsnoop_integrations.joint.verb_data import modalities_of, modality_of, names_of, targets_of

K = 15


def transfer(
    model: Any,
    reference: Any,
    new: Any,
    *,
    labels: str = "muse_leiden",
    image: str = "image",
    rna: str = "rna",
    key: str = "muse",
    k: int = K,
    missing: str = "error",
    fill_zero: bool = False,
    image_layer: str | None = None,
) -> pd.DataFrame:
    """Place new cells with a fitted model, and give them the labels of their neighbours among the training cells.

    Source: multimodal spec, section 9. The label is that of most of the ``k`` nearest in the latent, ties to the
    nearer ones; the confidence is their share. Writes ``obsm["X_muse"]``, ``obs["<labels>_transferred"]`` and
    ``obs["<labels>_confidence"]`` into ``new``.

    Parameters
    ----------
    model
        As :func:`muse` returned it, or loaded.
    reference
        What it was fitted on: holds ``uns[key]``, ``obsm["X_<key>"]`` and ``obs[labels]``. Not changed.
    new
        MuData, or a mapping of AnnData, with both modalities or, with ``missing="mean"``, one of them.
    labels
        A column of ``obs`` of the reference; cells without a label have no vote.
    missing, fill_zero
        ``mean``: the latent of a missing modality is its mean in training. ``fill_zero``: genes that were not
        measured are zero. Both are flagged.
    image_layer
        As for ``joint.pair``.

    Returns
    -------
    One row a cell that was placed: ``label``, ``confidence``, ``flags`` (``imputed_modality``, ``filled_genes``);
    ``attrs["notes"]``, and ``attrs["rejects"]``, a list of records.

    Raises
    ------
    JointError
        ``feature_mismatch`` and others of ``joint.pair_new``.
    ValueError
        The reference lacks the key or the labels, or has fewer than ``k`` labelled cells.
    """
    from microsnoop_integrations.joint.keys import expand, preparation_of
    from microsnoop_integrations.joint.pairing import pair_new

    source = targets_of(reference, modalities_of(reference, rna, image))[0]
    if key not in source.uns or f"X_{key}" not in source.obsm or labels not in source.obs:
        raise ValueError(f"the reference needs uns[{key!r}], obsm['X_{key}'] and obs[{labels!r}]")
    parts = {name: modality_of(new, name) for name in (rna, image) if name in names_of(new)}
    cells = pair_new(
        parts.get(rna), parts.get(image), preparation_of(source, key=key), fill_zero=fill_zero,
        image_layer=image_layer,
    )  # fmt: skip
    latent = np.asarray(model.transform(cells.x, cells.y, missing=missing), np.float32)
    trained = (
        np.isfinite(np.asarray(source.obsm[f"X_{key}"])).all(axis=1) & source.obs[labels].notna().to_numpy()
    )
    n_labelled = int(trained.sum())
    if not 1 <= k <= n_labelled:
        raise ValueError(f"k = {k} neighbours need as many labelled cells, the reference has {n_labelled}")
    label, confidence = neighbours_labels(
        source.obs[labels].astype(str)[trained].to_numpy(object),
        np.asarray(source.obsm[f"X_{key}"])[trained],
        latent,
        voters=k,
    )
    frame = pd.DataFrame(
        {"label": label, "confidence": confidence, "flags": ";".join(cells.flags)},
        index=pd.Index(cells.obs_ids),
    )
    frame.attrs = {"notes": list(cells.notes), "rejects": cells.rejects.to_dict("records")}
    for target in targets_of(new, list(parts.values())):
        rows = pd.Index(target.obs_names.astype(str)).get_indexer(frame.index)
        target.obsm[f"X_{key}"] = expand(latent, rows, target.n_obs)
        target.obs[f"{labels}_transferred"] = pd.Categorical(frame["label"].reindex(target.obs_names))
        target.obs[f"{labels}_confidence"] = expand(confidence, rows, target.n_obs)
    return frame


def neighbours_labels(
    labels: NDArray[Any], trained: NDArray[np.float32], latent: NDArray[np.float32], *, voters: int
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return the label (m,) of most of the nearest training cells, ties to the nearer ones, and its share.

    Parameters
    ----------
    labels, trained
        (n,) and (n, Z) of the training cells.
    latent
        (m, Z) of the new ones.
    voters
        At most n.
    """
    from sklearn.neighbors import NearestNeighbors

    names, codes = np.unique(labels, return_inverse=True)
    distance, index = NearestNeighbors(n_neighbors=voters).fit(trained).kneighbors(latent)
    chosen = vote(Neighbours(index, 1 - distance), codes.astype(np.int64), n_classes=len(names))
    share = (codes[index] == chosen[:, None]).mean(axis=1)
    return names[chosen], share.astype(np.float32)

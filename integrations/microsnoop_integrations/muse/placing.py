"""New cells in the latent of a fitted MUSE, one modality of them perhaps missing.

Source: multimodal spec, section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from microsnoop.core.errors import JointError
from microsnoop_integrations.muse.modality import Modality
from microsnoop_integrations.muse.network import MuseNetwork
from microsnoop_integrations.muse.training import encode

_ROWS = 4_096


def place(
    network: MuseNetwork, given: Sequence[Modality | None], means: NDArray[np.float32], *, device: str
) -> NDArray[np.float32]:
    """Return the latent (m, Z) of m cells; a modality that is None has the mean hidden values ``means`` (M, H).

    Raises
    ------
    JointError
        ``missing_modality``: all of them. ``row_count_mismatch``, ``feature_mismatch``.
    """
    counts = {m.shape[0] for m in given if m is not None}
    if not counts:
        raise JointError("missing_modality", "new cells need at least one modality")
    if len(counts) > 1:
        raise JointError(
            "row_count_mismatch", f"modalities of {sorted(counts)} cells: they must be the same cells"
        )
    widths = network.widths()
    if len(given) != len(widths):
        raise JointError(
            "missing_modality", f"{len(widths)} modalities were learned from, {len(given)} are given"
        )
    for m, width in zip(given, widths, strict=True):
        if m is not None and m.shape[1] != width:
            raise JointError(
                "feature_mismatch", f"{m.name}: {width} features were learned from, {m.shape[1]} are given"
            )
    whole = [m for m in given if m is not None]
    if len(whole) == len(given):
        return encode(network, whole, device=device)[0]
    return np.concatenate(list(_blocks(network, given, counts.pop(), means, device)))


@torch.no_grad()
def _blocks(
    network: MuseNetwork,
    given: Sequence[Modality | None],
    n: int,
    means: NDArray[np.float32],
    device: str,
) -> Iterator[NDArray[np.float32]]:
    for start in range(0, n, _ROWS):
        rows = slice(start, min(n, start + _ROWS))
        hidden = [
            encoder(m.rows(rows).to(device))
            if m is not None
            else torch.tensor(mean, device=device).expand(rows.stop - start, -1)
            for encoder, m, mean in zip(network.encoders, given, means, strict=True)
        ]
        yield network.joint(torch.cat(hidden, dim=1)).cpu().numpy()


def check_names(given: Sequence[str] | None, known: Sequence[str], kind: str) -> None:
    """Refuse names of columns that are not those of training, in that order; None is not checked.

    Raises
    ------
    JointError
        ``feature_mismatch``, with the names.
    """
    if given is None or tuple(map(str, given)) == tuple(known):
        return
    missing = [name for name in known if name not in set(map(str, given))]
    what = (
        f"{len(missing)} are missing: {', '.join(missing[:10])}" if missing else "they are in another order"
    )
    raise JointError(
        "feature_mismatch",
        f"{len(known)} {kind} were learned from, {len(given)} are given; {what}",
        hint=f"give the {kind} of training, in their order",
    )

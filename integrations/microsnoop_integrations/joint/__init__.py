"""Joint analysis of transcripts and image embeddings of the same cells, as verbs on MuData or two AnnData.

from microsnoop_integrations import joint
model = joint.muse(mdata, image="image", rna="rna")     # obsm["X_muse"], obs["muse_leiden"], uns["muse"]
joint.concat(mdata); joint.wnn(mdata); joint.mofa(mdata)  # what the joint model is to be compared with
joint.write_mudata(mdata, "joint.h5mu")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Not lazy, and light: modules of the same name (mofa) take the place of a lazy name once they are imported.
from microsnoop_integrations.joint.verbs import concat as concat
from microsnoop_integrations.joint.verbs import mofa as mofa
from microsnoop_integrations.joint.verbs import muse as muse
from microsnoop_integrations.joint.verbs import single as single
from microsnoop_integrations.joint.verbs import wnn as wnn

if TYPE_CHECKING:
    from microsnoop_integrations.joint.genes import genes_in_image_space as genes_in_image_space
    from microsnoop_integrations.joint.genes import image_neighbours_of_group as image_neighbours_of_group
    from microsnoop_integrations.joint.genes import rank_genes as rank_genes
    from microsnoop_integrations.joint.label_transfer import transfer as transfer
    from microsnoop_integrations.joint.mudata_io import build as build
    from microsnoop_integrations.joint.mudata_io import read_mudata as read_mudata
    from microsnoop_integrations.joint.mudata_io import to_anndata as to_anndata
    from microsnoop_integrations.joint.mudata_io import write_mudata as write_mudata
    from microsnoop_integrations.joint.pairing import pair as pair
    from microsnoop_integrations.joint.pairing import pair_new as pair_new

_HOMES = {
    "transfer": "label_transfer",
    **dict.fromkeys(("genes_in_image_space", "image_neighbours_of_group", "rank_genes"), "genes"),
    **dict.fromkeys(("build", "read_mudata", "to_anndata", "write_mudata"), "mudata_io"),
    **dict.fromkeys(("pair", "pair_new"), "pairing"),
}


def __getattr__(name: str) -> Any:
    """Import what was asked for from the module it lives in."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

"""Pure array functions: numpy in, numpy out. No paths, tables, torch or Ray; inputs are never changed.

What needs scipy, scikit-image or scikit-learn (``objects``, ``features``, ``phash``, ``knn`` and everything about
scores) is imported by name, because every reading process imports this package and needs none of them.
"""

from microsnoop.ops.geometry import Box, Placement, box_around, cut, place, tile_boxes, tile_starts
from microsnoop.ops.intensity import Scaling, normalise, percentiles, plane_scaling
from microsnoop.ops.profiles import GroupMean, fuse_channels

__all__ = [
    "Box",
    "GroupMean",
    "Placement",
    "Scaling",
    "box_around",
    "cut",
    "fuse_channels",
    "normalise",
    "percentiles",
    "place",
    "plane_scaling",
    "tile_boxes",
    "tile_starts",
]

"""A raw mesh made fit for simplification, unwrapping and baking: each repair, and all of them in one go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..ops.mesh_clean import match_edges
from ..values import Mesh
from .components import check_limits, large_enough
from .fill_holes import add_faces, check_perimeter, hole_faces
from .manifold import split_surface
from .orient import OUTWARD, faces_to_turn, turn, turn_surface
from .surface import has_twin_corners, join_faces, proper_edges
from .topology import Progress, Rows, check_mesh, following, origins, select_faces
from .weld import close_vertices


@dataclass(frozen=True, kw_only=True)
class CleanOptions:
    """What `clean` does. Lengths are in world units.

    weld_distance: see `weld`.  min_area_share, min_faces, keep_largest: see `remove_small_components`.  outward: see
    `orient`.  max_hole_perimeter, curved_fill: see `fill_holes`; 0 fills nothing.
    """

    weld_distance: float = 1e-6
    min_area_share: float = 1e-5
    min_faces: int = 0
    keep_largest: int | None = None
    outward: str = "volume"
    max_hole_perimeter: float = 3e-2
    curved_fill: bool = True

    def __post_init__(self) -> None:
        check_distance(self.weld_distance)
        check_limits(self.min_area_share, self.min_faces, self.keep_largest)
        check_perimeter(self.max_hole_perimeter)
        if self.outward not in OUTWARD:
            raise ValueError(f"outward: expected one of {list(OUTWARD)}, got {self.outward!r}")


def check_distance(distance: float) -> None:
    """Raises ValueError for a distance that `weld` does not take."""
    if not 0 <= distance < float("inf"):
        raise ValueError(f"weld distance: expected 0 or more, got {distance}")

"""Options of a texture bake."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from ..material import AlphaMode
from ..ops.nearest_texel import MAX_SIDE
from ..values import Mesh

SUPERSAMPLES = (1, 2, 4)
MAX_RAYS = 1024


@dataclass(frozen=True)
class BakeOptions:
    """resolution: texels per side of the atlas.  supersample: 1, 2 or 4 samples along each side of a texel.

    snap_voxels: maximum distance from a sample to the dense surface, in voxels.  snap_min_cosine: minimum cosine of the
    angle between the normals of both surfaces; -1 accepts any.  dense_oriented: the dense mesh has consistent outward
    winding (`orient`); if not, normals match with either sign and are flat.
    snap_distance: the same in world units, in place of `snap_voxels`; None without voxels: 2 % of the longest side.
    normal_map, occlusion: bake these textures.  occlusion_rays: directions over the whole sphere.
    occlusion_reach: maximum distance of occluders in world units; None: no limit.
    occluder: surface that casts and receives the occlusion, where layers under the skin of the dense one must not:
    closed and outward, vertices [V, 3], faces [F, 3]. None: the dense one.
    alpha_mode: of the material; "auto": from the texels (see `alpha_mode`).
    """

    resolution: int = 2048
    supersample: int = 1
    snap_voxels: float = 4.0
    snap_min_cosine: float = 0.2
    dense_oriented: bool = True
    normal_map: bool = True
    occlusion: bool = False
    occlusion_rays: int = 128
    occlusion_reach: float | None = None
    alpha_mode: AlphaMode | Literal["auto"] = "auto"
    snap_distance: float | None = None
    occluder: Mesh | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.resolution <= MAX_SIDE:
            raise ValueError(f"BakeOptions.resolution: expected 1 to {MAX_SIDE}, got {self.resolution}")
        if self.supersample not in SUPERSAMPLES:
            raise ValueError(f"BakeOptions.supersample: expected one of {SUPERSAMPLES}, got {self.supersample}")
        if not 0 <= self.snap_voxels < math.inf:
            raise ValueError(f"BakeOptions.snap_voxels: expected a finite number from 0, got {self.snap_voxels}")
        if self.snap_distance is not None and not 0 < self.snap_distance < math.inf:
            raise ValueError(f"BakeOptions.snap_distance: expected None or above 0, got {self.snap_distance}")
        if not -1 <= self.snap_min_cosine <= 1:
            raise ValueError(f"BakeOptions.snap_min_cosine: expected -1 to 1, got {self.snap_min_cosine}")
        if not 1 <= self.occlusion_rays <= MAX_RAYS:
            raise ValueError(f"BakeOptions.occlusion_rays: expected 1 to {MAX_RAYS}, got {self.occlusion_rays}")
        if self.occlusion_reach is not None and not self.occlusion_reach > 0:
            raise ValueError(f"BakeOptions.occlusion_reach: expected None or above 0, got {self.occlusion_reach}")
        if self.alpha_mode not in ("auto", *get_args(AlphaMode)):
            raise ValueError(f"BakeOptions.alpha_mode: expected 'auto' or a mode, got {self.alpha_mode!r}")

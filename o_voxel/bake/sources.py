"""What the samples of a texture are looked up in: the dense surface, the voxels, the tangent frames, the sky."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.progress import Progress, scaled
from ..core.vectors import unit
from ..material import UVMap
from ..ops.ambient_occlusion import DepthMaps, ambient_occlusion, render_depth_maps, sphere_directions
from ..ops.grid_sample import grid_samples
from ..ops.hash_grid import HashGrid, hash_grid
from ..values import Mesh, VoxelField
from .options import BakeOptions
from .snap import DenseSurface
from .tangent_space import TangentFrames
from .texels import Samples

# The share of the preparation that drawing the sky takes, where it is drawn.
DEPTH_MAP_SHARE = 0.9
# Of a picture of the sky: 4 MiB each. A pixel is about a voxel of the finest decoded surface.
DEPTH_MAP_SIDE = 1024


@dataclass(frozen=True, eq=False)
class Channels:
    """What samples found; `valid` says where. Values [P, K] float32, each with valid [P] bool.

    field: PBR_CHANNELS in [0, 1].  normal: unit, tangent space, or None.  occlusion: [P, 1], the open share, or None.
    """

    field: tuple[Tensor, Tensor]
    normal: tuple[Tensor, Tensor] | None
    occlusion: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class BakeSources:
    """corners: [F, 3, 6] float32, position and normal at the corners of the mesh to texture. frames, sky: None where
    the options ask for no normal map or no occlusion.
    """

    corners: Tensor
    dense: DenseSurface
    field: VoxelField
    voxels: HashGrid
    frames: TangentFrames | None
    depth_maps: DepthMaps | None
    options: BakeOptions
    backend: str

    @classmethod
    def prepare(
        cls,
        mesh: tuple[Mesh, Tensor, UVMap],
        dense: Mesh,
        field: VoxelField,
        options: BakeOptions,
        backend: str,
        progress: Progress,
    ) -> BakeSources:
        """mesh: the one to texture, its normals [V, 3] and its atlas. Arguments as `bake`, checked there."""
        low, normals, uv_map = mesh
        # Ops for both devices, and the index, have no choice named "triton" or "numba".
        plain = "reference" if backend == "reference" else "auto"
        frames = TangentFrames.of(low, uv_map, normals, backend=plain) if options.normal_map else None
        depth_maps = None
        if options.occlusion:
            directions = sphere_directions(options.occlusion_rays)
            depth_maps = render_depth_maps(
                dense,
                directions,
                DEPTH_MAP_SIDE,
                backend=backend,
                progress=scaled(progress, 0.0, DEPTH_MAP_SHARE),
            )
        corners = torch.cat([low.vertices, normals], 1)[low.faces.long()]
        surface = DenseSurface.of(dense, options.dense_oriented)
        voxels = hash_grid(field.coords, backend=plain)
        progress(1.0)
        return cls(corners, surface, field, voxels, frames, depth_maps, options, backend)

    def look_up(self, samples: Samples) -> Channels:
        """What is where `samples` are."""
        points, facing = samples.at(self.corners).split(3, 1)
        facing = unit(facing)
        options, grid = self.options, self.field.grid
        furthest = options.snap_voxels * max(grid.voxel_size)
        place = self.dense.snap(points.contiguous(), facing, furthest, options.snap_min_cosine, backend=self.backend)
        values, reached = grid_samples(self.field.attrs, self.voxels, grid.to_grid(place.points), backend=self.backend)
        normal = occlusion = None
        if self.frames is not None:
            local = self.frames.encode(samples.face, samples.weights, place.normals)
            normal = local, torch.ones_like(reached)
        if self.depth_maps is not None:
            share = ambient_occlusion(
                self.depth_maps,
                place.points,
                place.normals,
                place.flat,
                reach=options.occlusion_reach,
                backend=self.backend,
            )
            # A sample that is not on the surface may be inside it, where all is dark.
            occlusion = share[:, None], place.found
        return Channels((values.float().clamp(0, 1), reached), normal, occlusion)

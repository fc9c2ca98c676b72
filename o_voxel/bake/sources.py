"""Data sources of a bake: dense surface, voxel field, tangent frames and depth maps for ambient occlusion."""

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

# Share of the preparation time spent on depth maps, if any.
DEPTH_MAP_SHARE = 0.9
# Pixels per side of a depth map, 4 MiB each. A pixel is about a voxel of the finest decoded surface.
DEPTH_MAP_SIDE = 1024


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels at P samples, each as (values [P, K] float32, valid [P] bool).

    field: PBR_CHANNELS in [0, 1].  normal: unit, tangent space, or None.  occlusion: [P, 1], 1 unoccluded, or None.
    """

    field: tuple[Tensor, Tensor]
    normal: tuple[Tensor, Tensor] | None
    occlusion: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, eq=False)
class BakeSources:
    """corners: [F, 3, 6] float32, position and normal at the corners of the mesh to texture. frames, depth_maps: None
    if the options exclude the normal map or occlusion.  occluder: the surface of the depth maps, if it is not `dense`.
    """

    corners: Tensor
    dense: DenseSurface
    field: VoxelField
    voxels: HashGrid
    frames: TangentFrames | None
    depth_maps: DepthMaps | None
    occluder: DenseSurface | None
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
        """Builds all sources. mesh: the mesh to texture, normals [V, 3] and atlas. Arguments as `bake`, validated."""
        low, normals, uv_map = mesh
        # Device-independent ops have no backend named "triton" or "numba"; they get "auto".
        plain = "reference" if backend == "reference" else "auto"
        frames = TangentFrames.of(low, uv_map, normals, backend=plain) if options.normal_map else None
        depth_maps = None
        if options.occlusion:
            directions = sphere_directions(options.occlusion_rays)
            depth_maps = render_depth_maps(
                options.occluder or dense,
                directions,
                DEPTH_MAP_SIDE,
                backend=backend,
                progress=scaled(progress, 0.0, DEPTH_MAP_SHARE),
            )
        corners = torch.cat([low.vertices, normals], 1)[low.faces.long()]
        surface = DenseSurface.of(dense, options.dense_oriented)
        voxels = hash_grid(field.coords, backend=plain)
        progress(1.0)
        occluder = None if depth_maps is None or options.occluder is None else DenseSurface.of(options.occluder, True)
        return cls(corners, surface, field, voxels, frames, depth_maps, occluder, options, backend)

    def look_up(self, samples: Samples) -> Channels:
        """Computes the channels at `samples`, as values [P, K] float32 with valid [P] bool."""
        points, facing = samples.at(self.corners).split(3, 1)
        facing = unit(facing)
        options, grid = self.options, self.field.grid
        max_distance = options.snap_voxels * max(grid.voxel_size)
        snapped = self.dense.snap(
            points.contiguous(), facing, max_distance, options.snap_min_cosine, backend=self.backend
        )
        values, reached = grid_samples(
            self.field.attrs, self.voxels, grid.to_grid(snapped.points), backend=self.backend
        )
        normal = occlusion = None
        if self.frames is not None:
            local = self.frames.encode(samples.face, samples.weights, snapped.normals)
            normal = local, torch.ones_like(reached)
        if self.depth_maps is not None:
            if self.occluder is not None:
                snapped = self.occluder.snap(
                    points.contiguous(), facing, max_distance, options.snap_min_cosine, backend=self.backend
                )
            share = ambient_occlusion(
                self.depth_maps,
                snapped.points,
                snapped.normals,
                snapped.flat,
                reach=options.occlusion_reach,
                backend=self.backend,
            )
            # A sample off the surface may be inside it, fully occluded, so it is invalid.
            occlusion = share[:, None], snapped.found
        return Channels((values.float().clamp(0, 1), reached), normal, occlusion)

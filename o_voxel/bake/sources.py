"""Data sources of a bake: dense surface, materials of voxels or of a mesh, tangent frames, depth maps for occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.progress import Progress, scaled
from ..core.vectors import length, unit
from ..material import TexturedMesh, UVMap
from ..ops.ambient_occlusion import DepthMaps, ambient_occlusion, render_depth_maps, sphere_directions
from ..ops.grid_sample import grid_samples
from ..ops.hash_grid import HashGrid, hash_grid
from ..values import Mesh, VoxelField
from .mesh_materials import MeshMaterials, texel_sizes, used_materials
from .options import BakeOptions
from .snap import DenseSurface, Snapped
from .tangent_space import TangentFrames
from .texels import Samples

# Share of the preparation time spent on depth maps, if any.
DEPTH_MAP_SHARE = 0.9
# Pixels per side of a depth map, 4 MiB at the most: a pixel is then about a voxel of the finest decoded surface. Fewer
# where the median edge of what casts occlusion is more than so many pixels long.
LEAST_MAP_SIDE, MOST_MAP_SIDE, EDGE_PIXELS = 512, 1024, 3

# Channels of the layers that a bake can make.
LAYER_CHANNELS = {"field": 6, "emission": 3, "normal": 3, "occlusion": 1}
# Reach of a search on a mesh, in its largest extent, where no voxels give a scale.
REACH = 0.02

Values = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Channels:
    """Channels at P samples, each as (values [P, K] float32, valid [P] bool), or None.

    field: PBR_CHANNELS in [0, 1].  emission: sRGB in [0, 1], see `MaterialSamples`.  normal: unit, tangent space.
    occlusion: [P, 1], 1 unoccluded.
    """

    field: Values | None = None
    emission: Values | None = None
    normal: Values | None = None
    occlusion: Values | None = None


@dataclass(frozen=True, eq=False)
class FieldMaterials:
    """Voxels with materials, and the table that finds them."""

    field: VoxelField
    table: HashGrid

    def sample(self, points: Tensor, backend: str) -> Values:
        """Returns (values [P, 6] float32 in [0, 1], valid [P] bool) at `points` [P, 3], world units."""
        positions = self.field.grid.to_grid(points)
        values, reached = grid_samples(self.field.attrs, self.table, positions, backend=backend)
        return values.float().clamp(0, 1), reached


@dataclass(frozen=True, eq=False)
class BakeSources:
    """corners: [F, 3, 7] float32, position, normal and texel size at the corners of the mesh to texture.
    materials: None to bake normals and occlusion only.  frames, depth_maps: None if the options exclude the normal map
    or occlusion.  occluder: the surface of the depth maps, if it is not `dense`.  reach: world units, longest way from
    a sample to the dense surface.
    """

    corners: Tensor
    dense: DenseSurface | None
    materials: FieldMaterials | MeshMaterials | None
    frames: TangentFrames | None
    depth_maps: DepthMaps | None
    occluder: DenseSurface | None
    reach: float
    options: BakeOptions
    backend: str

    @classmethod
    def prepare(
        cls,
        target: tuple[Mesh, Tensor, UVMap],
        dense: Mesh,
        field: VoxelField | TexturedMesh | None,
        options: BakeOptions,
        backend: str,
        progress: Progress,
    ) -> BakeSources:
        """Builds all sources. target: the mesh to texture, normals [V, 3] and atlas. Arguments as `bake`, validated."""
        low, normals, uv_map = target
        # Device-independent ops have no backend named "triton" or "numba"; they get "auto".
        plain = "reference" if backend == "reference" else "auto"
        frames = TangentFrames.of(low, uv_map, normals, backend=plain) if options.normal_map else None
        depth_maps = None
        if options.occlusion:
            directions = sphere_directions(options.occlusion_rays)
            depth_maps = render_depth_maps(
                options.occluder or dense,
                directions,
                depth_map_side(options.occluder or dense),
                backend=backend,
                progress=scaled(progress, 0.0, DEPTH_MAP_SHARE),
            )
        materials: FieldMaterials | MeshMaterials | None = None
        if isinstance(field, VoxelField):
            materials = FieldMaterials(field, hash_grid(field.coords, backend=plain))
        elif field is not None:
            materials = MeshMaterials.of(field, normals=options.normal_map)
        mapped = isinstance(materials, MeshMaterials) and (materials.normal_is_mapped() or not options.normal_map)
        shared = isinstance(materials, MeshMaterials) and materials.surface.mesh is dense
        # The dense surface is needed for what the materials do not have.
        surface = None
        if not mapped or depth_maps is not None:
            surface = materials.surface if shared else DenseSurface.of(dense, options.dense_oriented)
        size = texel_sizes(low, uv_map.uv, uv_map.faces, options.resolution * options.supersample)
        corners = torch.cat([low.vertices, normals], 1)[low.faces.long()]
        corners = torch.cat([corners, size[:, None, None].expand(-1, 3, 1)], 2)
        progress(1.0)
        occluder = None if depth_maps is None or options.occluder is None else DenseSurface.of(options.occluder, True)
        reach = reach_of(dense, field, options)
        return cls(corners, surface, materials, frames, depth_maps, occluder, reach, options, backend)

    def layers(self) -> set[str]:
        """Returns the names of the layers, of LAYER_CHANNELS, that `look_up` fills."""
        names = {"field"} if self.materials is not None else set()
        if self.frames is not None:
            names.add("normal")
        if self.depth_maps is not None or self._has_occlusion_map():
            names.add("occlusion")
        if isinstance(self.materials, MeshMaterials) and self.materials.strength > 0:
            names.add("emission")
        return names

    def look_up(self, samples: Samples) -> Channels:
        """Computes the channels at `samples`, as values [P, K] float32 with valid [P] bool."""
        points, facing, size = samples.at(self.corners).split((3, 3, 1), 1)
        points, facing = points.contiguous(), unit(facing)
        cosine = self.options.snap_min_cosine
        snapped = found = None
        if isinstance(self.materials, MeshMaterials):
            found = self.materials.find(points, facing, self.reach, cosine, backend=self.backend)
        if self.dense is not None:
            snapped = self.dense.snap(points, facing, self.reach, cosine, backend=self.backend)
        every = torch.ones_like(samples.face, dtype=torch.bool)
        channels: dict[str, Values] = {}
        normals = None if snapped is None else snapped.normals
        if found is not None:
            taken = self.materials.sample(found, facing, size[:, 0])
            channels = {"field": (taken.field, every), "emission": (taken.emission, every)}
            channels["occlusion"] = taken.occlusion, every
            normals = normals if taken.normals is None else taken.normals
        elif self.materials is not None:
            channels["field"] = self.materials.sample(snapped.points, self.backend)
        if self.frames is not None:
            channels["normal"] = self.frames.encode(samples.face, samples.weights, normals), every
        if self.depth_maps is not None:
            # Of many directions and filtered maps it changes little within a texel: one sample is enough.
            rows = samples.one_a_texel()
            channels["occlusion"] = self._occlusion(points, facing, snapped, rows)
        return Channels(**channels)

    def _occlusion(self, points: Tensor, facing: Tensor, snapped: Snapped | None, rows: Tensor) -> Values:
        """Occlusion [P, 1] and valid [P] bool at `points` [P, 3] with normals `facing`, valid at `rows` [R] alone.

        snapped: of all points, where the occluder is the dense surface.
        """
        if self.occluder is not None:
            cosine = self.options.snap_min_cosine
            place = self.occluder.snap(points[rows], facing[rows], self.reach, cosine, backend=self.backend)
        else:
            place = Snapped(*(part[rows] for part in snapped))
        share = ambient_occlusion(
            self.depth_maps,
            place.points,
            place.normals,
            place.flat,
            reach=self.options.occlusion_reach,
            backend=self.backend,
        )
        # A sample off the surface may be inside it, fully occluded, so it is invalid.
        valid = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        values = points.new_zeros(len(points), 1).index_copy_(0, rows, share[:, None])
        return values, valid.index_copy_(0, rows, place.found)

    def _has_occlusion_map(self) -> bool:
        if not isinstance(self.materials, MeshMaterials):
            return False
        source = self.materials.source
        return any(source.materials[row].occlusion_texture is not None for row in used_materials(source))


def depth_map_side(mesh: Mesh) -> int:
    """Returns the pixels per side of depth maps of `mesh`, vertices [V, 3] and faces [F, 3]: a power of two."""
    corners = mesh.vertices[mesh.faces.long()]
    edge = float(length(corners[:, 1] - corners[:, 0]).median())
    across = float(length(corners.amax((0, 1)) - corners.amin((0, 1))))
    side = LEAST_MAP_SIDE
    while side < MOST_MAP_SIDE and side * edge < EDGE_PIXELS * across:
        side *= 2
    return side


def reach_of(dense: Mesh, field: VoxelField | TexturedMesh | None, options: BakeOptions) -> float:
    """Returns how far, in world units, the dense surface (vertices [V, 3], faces [F, 3]) is searched from a sample."""
    if options.snap_distance is not None:
        return options.snap_distance
    if isinstance(field, VoxelField):
        return options.snap_voxels * max(field.grid.voxel_size)
    used = dense.vertices[dense.faces.long().flatten()]
    return REACH * float((used.amax(0) - used.amin(0)).amax())

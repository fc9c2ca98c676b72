"""Scenes to render: triangles with PBR attributes, built once from a mesh or voxels, rendered from many views."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.checks import FLOATS, check_tensor
from ..material import TexturedMesh
from ..ops.hash_grid import hash_grid
from ..values import Mesh, VoxelField
from .camera import Bounds
from .ground import ground_shadow
from .surface_materials import SurfaceMaterials
from .vectors import cross, length, spans, unit

CLAY = (0.66, 0.65, 0.635, 0.0, 0.55, 1.0)  # PBR channels of a subject without materials
PLASTIC = (0.0, 0.5, 1.0)  # metallic, roughness, alpha of a subject with colours only
AREA_STEPS = 2.0**50  # fixed-point sums are exact, so independent of the GPU's order of additions
SQUARINGS = 4
DOMINANT = 0.85  # squared norm / squared trace: 1 for one dominant direction, 1/2 for two equal ones

# (direction, corners counter-clockwise from outside) of a voxel's faces: +x, -x, +y, -y, +z, -z.
SIDES = (
    ((1, 0, 0), ((1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1))),
    ((-1, 0, 0), ((0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 0))),
    ((0, 1, 0), ((0, 1, 0), (0, 1, 1), (1, 1, 1), (1, 1, 0))),
    ((0, -1, 0), ((0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1))),
    ((0, 0, 1), ((0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))),
    ((0, 0, -1), ((0, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0))),
)


@dataclass(frozen=True, eq=False)
class Scene:
    """vertices [V, 3] float32 world.  faces [F, 3].  attrs [A, 6] float32, PBR_CHANNELS in [0, 1], base colour sRGB.

    owner: [F] int64, row of `attrs` per face, or None for vertex attributes.  normals: [V, 3] unit axes of either
    sign, or None for flat shading.  shadow: [S, S] float32, see `ground_shadow`.  bounds: used to fit the camera.
    surface_materials: materials and textures in place of `attrs`, which is then empty.
    """

    vertices: Tensor
    faces: Tensor
    attrs: Tensor
    owner: Tensor | None
    normals: Tensor | None
    shadow: Tensor
    bounds: Bounds
    surface_materials: SurfaceMaterials | None = None


@torch.no_grad()
def mesh_scene(
    mesh: Mesh, *, colors: Tensor | None = None, material: Tensor | None = None, smooth: bool = True
) -> Scene:
    """Builds a scene of a mesh with vertex `colors` [V, 3] sRGB, `material` [V, 6] PBR_CHANNELS, or neither (clay).

    Clamps values to [0, 1]. Raises ValueError for both, and for non-finite vertices.
    """
    if colors is not None and material is not None:
        raise ValueError("expected colors or material, got both")
    count = len(mesh.vertices)
    if colors is not None:
        check_tensor(colors, "colors", (count, 3), FLOATS)
    if material is not None:
        check_tensor(material, "material", (count, 6), FLOATS)
    attrs = _attributes(colors if material is None else material, count, mesh.vertices)
    return _mesh_scene(mesh, attrs, smooth)


@torch.no_grad()
def textured_scene(mesh: TexturedMesh, *, smooth: bool = True, ground: bool = True) -> Scene:
    """Builds a scene of a mesh, vertices [V, 3], with all of its materials: factors, textures and vertex colours.

    Occlusion maps attenuate all light but emission. Smooth shading uses the mesh's normals, and `axis_normals` if it
    has none; normal maps need the former and bend face normals otherwise (glTF's rule). Alpha: MASK cuts holes through
    which `draw` shows up to HOLES further surfaces; BLEND is blended over the nearest surface that is not BLEND.
    ground: False omits the shadow, which images without background do not show.
    Raises ValueError for non-finite vertices or face indices out of range.
    """
    scene = _mesh_scene(mesh.mesh, mesh.mesh.vertices.new_empty(0, 6), smooth, ground)
    return replace(scene, surface_materials=SurfaceMaterials.of(mesh, smooth))


def _mesh_scene(mesh: Mesh, attrs: Tensor, smooth: bool, ground: bool = True) -> Scene:
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise ValueError("mesh.vertices: expected finite numbers, got NaN or infinity")
    bounds = Bounds.around(mesh.vertices)
    # Check the indices before use; rasterising the shadow also checks them.
    if not ground and len(mesh.faces) and not 0 <= int(mesh.faces.min()) <= int(mesh.faces.max()) < len(mesh.vertices):
        raise ValueError(f"mesh.faces: expected rows of {len(mesh.vertices)} vertices, got some outside")
    shadow = ground_shadow(mesh.vertices, mesh.faces, bounds) if ground else mesh.vertices.new_zeros(1, 1)
    normals = axis_normals(mesh, bounds.radius) if smooth else None
    return Scene(mesh.vertices.detach(), mesh.faces, attrs, None, normals, shadow, bounds)


@torch.no_grad()
def voxel_scene(field: VoxelField, cube: float = 1.0) -> Scene:
    """Builds a scene of cubes without shared faces. field.attrs: [N, 6] PBR, [N, 3] sRGB colours, or [N, 0] clay.

    cube: side of the cubes in voxels; below 1 they are separate and keep all faces. Coordinates must be unique.
    Raises ValueError for another number of channels or a side outside (0, 1].
    """
    coords, device = field.coords, field.coords.device
    if field.attrs.shape[1] not in (0, 3, 6):
        raise ValueError(f"field.attrs: expected 0, 3 or 6 channels to draw, got {field.attrs.shape[1]}")
    if not 0 < cube <= 1:
        raise ValueError(f"cube: expected a side in (0, 1] voxels, got {cube}")
    index = hash_grid(coords)
    everyone = torch.arange(len(coords), device=device)
    corners, owner = [], []
    for direction, side in SIDES:
        exposed = everyone if cube < 1 else everyone[index.find(coords + coords.new_tensor(direction)) < 0]
        inset = (torch.tensor(side, dtype=torch.float32, device=device) - 0.5) * cube + 0.5
        corners.append(coords[exposed][:, None] + inset)
        owner.append(exposed)
    vertices = field.grid.to_world(torch.cat(corners).view(-1, 3))
    quad = torch.arange(0, len(vertices), 4, dtype=torch.int32, device=device)
    faces = (quad[:, None] + quad.new_tensor([0, 1, 2, 0, 2, 3])).view(-1, 3)
    attrs = _attributes(field.attrs if field.attrs.shape[1] else None, len(coords), vertices)
    bounds = Bounds.around(vertices)
    shadow = ground_shadow(vertices, faces, bounds)
    return Scene(vertices, faces, attrs, torch.cat(owner).repeat_interleave(2), None, shadow, bounds)


def _attributes(values: Tensor | None, count: int, like: Tensor) -> Tensor:
    """Returns PBR channels [count, 6] float32 from `values` [count, 6], [count, 3] (colours) or None."""
    if values is None:
        return like.new_tensor(CLAY).expand(count, 6)
    values = values.to(like).nan_to_num(0.0).clamp(0, 1)
    return values if values.shape[1] == 6 else torch.cat((values, values.new_tensor(PLASTIC).expand(count, 3)), dim=1)


def axis_normals(mesh: Mesh, radius: float) -> Tensor:
    """Computes unsigned unit vertex normals [V, 3] float32; 0 for unused vertices and without a dominant direction.

    Principal axis of the area-weighted sum of n n^T over the vertex's faces. Unlike mean normals, it is independent of
    the winding, which is inconsistent in dual-grid meshes. radius: of the mesh's bounding sphere, world units.
    Deterministic on every device.
    """
    sums = torch.zeros((6, len(mesh.vertices)), dtype=torch.int64, device=mesh.vertices.device)
    largest = 4 * radius * radius
    for span in spans(len(mesh.faces), mesh.faces.device):
        rows = mesh.faces[span].T.contiguous()
        a, b, c = (mesh.vertices.index_select(0, row).T for row in rows)
        normal = cross(b - a, c - a)
        area = length(normal)
        x, y, z = normal / area.clamp(min=1e-37)
        weight = area.double() * (AREA_STEPS / largest)
        for total, product in zip(sums, (x * x, x * y, x * z, y * y, y * z, z * z), strict=True):
            term = (product * weight).to(torch.int64)
            for row in rows:
                total.index_add_(0, row, term)
    result = torch.empty_like(mesh.vertices)
    for span in spans(len(result), result.device):
        result[span] = _principal_axis(*(total[span].double() for total in sums)).T
    return result


def _principal_axis(xx: Tensor, xy: Tensor, xz: Tensor, yy: Tensor, yz: Tensor, zz: Tensor) -> Tensor:
    """Computes the dominant eigenvector [3, N] float32 of symmetric 3 x 3 matrices, given by entry, each [N] float64.

    Repeated squaring converges to the eigenvector's outer product, whose largest column is taken. If the next
    eigenvalue is within about 15 %, as at the corner of a box, the result is 0.
    """
    for _ in range(SQUARINGS):
        scale = 1 / (xx + yy + zz).clamp(min=1e-30)
        xx, xy, xz, yy, yz, zz = (entry * scale for entry in (xx, xy, xz, yy, yz, zz))
        xx, xy, xz, yy, yz, zz = (
            xx * xx + xy * xy + xz * xz,
            xx * xy + xy * yy + xz * yz,
            xx * xz + xy * yz + xz * zz,
            xy * xy + yy * yy + yz * yz,
            xy * xz + yy * yz + yz * zz,
            xz * xz + yz * yz + zz * zz,
        )
    trace = xx + yy + zz
    squares = xx * xx + yy * yy + zz * zz + 2 * (xy * xy + xz * xz + yz * yz)
    dominant = squares > DOMINANT * trace * trace
    columns = ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))
    first, second = (xx >= yy) & (xx >= zz), yy >= zz
    axis = torch.stack([torch.where(first, x, torch.where(second, y, z)) for x, y, z in columns])
    return unit((axis / trace.clamp(min=1e-30) * dominant).float())

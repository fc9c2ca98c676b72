"""What is drawn: triangles with PBR attributes, made once from a mesh or from voxels, drawn from many views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..checks import FLOATS, check_tensor
from ..ops.hash_grid import hash_grid
from ..values import Mesh, VoxelField
from .camera import Sphere

CLAY = (0.73, 0.72, 0.70, 0.0, 0.55, 1.0)  # the six PBR channels of what has none
PLASTIC = (0.0, 0.5, 1.0)  # metallic, roughness, alpha of what has colours alone
AREA_STEPS = 2.0**40  # fixed point makes sums exact, so the order of a GPU's additions is no matter
SQUARINGS = 5

# Corners of a voxel's side seen from outside, counter-clockwise, by direction: +x, -x, +y, -y, +z, -z.
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

    owner: [F] int64, the row of `attrs` of each face, or None: attrs are by vertex.  normals: [V, 3] unit directions
    of either sign, or None for flat shading.  sphere: what the camera fits.
    """

    vertices: Tensor
    faces: Tensor
    attrs: Tensor
    owner: Tensor | None
    normals: Tensor | None
    sphere: Sphere


def mesh_scene(
    mesh: Mesh, *, colors: Tensor | None = None, material: Tensor | None = None, smooth: bool = True
) -> Scene:
    """A mesh with vertex `colors` [V, 3] sRGB, or vertex `material` [V, 6] PBR_CHANNELS, or neither: clay.

    Values are clamped to [0, 1]. Raises ValueError for both, or for vertices that are not finite.
    """
    if colors is not None and material is not None:
        raise ValueError("expected colors or material, got both")
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise ValueError("mesh.vertices: expected finite numbers, got NaN or infinity")
    count = len(mesh.vertices)
    if colors is not None:
        check_tensor(colors, "colors", (count, 3), FLOATS)
    if material is not None:
        check_tensor(material, "material", (count, 6), FLOATS)
    attrs = _attributes(colors if material is None else material, count, mesh.vertices)
    normals = axis_normals(mesh) if smooth else None
    return Scene(mesh.vertices, mesh.faces, attrs, None, normals, Sphere.around(mesh.vertices))


def voxel_scene(field: VoxelField) -> Scene:
    """Every voxel a cube, less the sides that two voxels share. attrs: 6 channels PBR, 3 sRGB colours, 0 clay.

    Raises ValueError for another number of channels. Coordinates must not repeat.
    """
    coords, device = field.coords, field.coords.device
    if field.attrs.shape[1] not in (0, 3, 6):
        raise ValueError(f"field.attrs: expected 0, 3 or 6 channels to draw, got {field.attrs.shape[1]}")
    index = hash_grid(coords)
    corners, owner = [], []
    for direction, side in SIDES:
        exposed = (index.find(coords + coords.new_tensor(direction)) < 0).nonzero().flatten()
        corners.append(coords[exposed][:, None] + coords.new_tensor(side))
        owner.append(exposed)
    vertices = field.grid.to_world(torch.cat(corners).view(-1, 3).float())
    quad = torch.arange(0, len(vertices), 4, dtype=torch.int32, device=device)
    faces = (quad[:, None] + quad.new_tensor([0, 1, 2, 0, 2, 3])).view(-1, 3)
    attrs = _attributes(field.attrs if field.attrs.shape[1] else None, len(coords), vertices)
    return Scene(vertices, faces, attrs, torch.cat(owner).repeat_interleave(2), None, Sphere.around(vertices))


def _attributes(given: Tensor | None, count: int, like: Tensor) -> Tensor:
    """[count, 6] float32 PBR channels from six, three (colours) or none."""
    if given is None:
        return like.new_tensor(CLAY).expand(count, 6)
    given = given.to(like).nan_to_num(0.0).clamp(0, 1)
    return given if given.shape[1] == 6 else torch.cat((given, given.new_tensor(PLASTIC).expand(count, 3)), dim=1)


def axis_normals(mesh: Mesh) -> Tensor:
    """The surface's direction [V, 3] float32 at each vertex, unit length, of either sign; 0 where no face is.

    The main axis of the area-weighted sum of n n^T over the vertex's faces. Unlike a mean of normals it does not
    depend on the winding, which a dual grid leaves inconsistent. The axis comes from repeated squaring.
    Deterministic on every device.
    """
    a, b, c = mesh.vertices[mesh.faces.long()].unbind(dim=1)
    normal = torch.linalg.cross(b - a, c - a)
    area = normal.norm(dim=1)
    unit = normal / area.clamp(min=1e-38)[:, None]
    weight = area / area.amax().clamp(min=1e-38) if len(area) else area
    sums = []
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        term = ((unit[:, i] * unit[:, j] * weight).double() * AREA_STEPS).to(torch.int64)
        total = term.new_zeros(len(mesh.vertices))
        for corner in range(3):
            total.index_add_(0, mesh.faces[:, corner], term)
        sums.append(total.double())
    return _main_axis(*(s / (sums[0] + sums[3] + sums[5]).clamp(min=1) for s in sums)).float()


def _main_axis(xx: Tensor, xy: Tensor, xz: Tensor, yy: Tensor, yz: Tensor, zz: Tensor) -> Tensor:
    """The eigenvector [N, 3] of the largest eigenvalue of symmetric matrices of trace 1, given by entry, each [N]."""
    for _ in range(SQUARINGS):
        squares = (
            xx * xx + xy * xy + xz * xz,
            xx * xy + xy * yy + xz * yz,
            xx * xz + xy * yz + xz * zz,
            xy * xy + yy * yy + yz * yz,
            xy * xz + yy * yz + yz * zz,
            xz * xz + yz * yz + zz * zz,
        )
        trace = (squares[0] + squares[3] + squares[5]).clamp(min=1e-300)
        xx, xy, xz, yy, yz, zz = (s / trace for s in squares)
    columns = torch.stack((xx, xy, xz, xy, yy, yz, xz, yz, zz), dim=1).view(-1, 3, 3)
    largest = torch.stack((xx, yy, zz), dim=1).argmax(dim=1)
    return normalize(columns[torch.arange(len(xx), device=xx.device), largest], dim=1)

"""Normals as a normal map stores them: in the frame of the texture, as MikkTSpace and glTF define it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.vectors import cross, dot, unit
from ..material import UVMap
from ..mesh.connectivity.row_map import unify_indices
from ..mesh.normals import tangents
from ..values import Mesh
from .texels import interpolate

# glTF keeps z above 0; in bytes that is at least one step.
LEAST_Z = 1 / 127


@dataclass(frozen=True, eq=False)
class TangentFrames:
    """The frames at the corners of faces, as the exporter writes them. normal: [F, 3, 3] float32; tangent: [F, 3, 4].

    Between the corners both are blended and not made unit again, and the third axis is cross(normal, tangent) * w:
    +x runs along u, +y along v (up), +z out of the surface. So a reader that blends alike gets back what was encoded.
    """

    normal: Tensor
    tangent: Tensor

    @classmethod
    def of(cls, mesh: Mesh, uv_map: UVMap, normals: Tensor, *, backend: str = "auto") -> TangentFrames:
        """normals: [V, 3] float32 unit vectors at the vertices of `mesh`."""
        joined, uv, rows = unify_indices(mesh, uv_map.uv, uv_map.faces)
        split, tangent, more = tangents(joined, normals[rows], uv, backend=backend)
        faces = split.faces.long()
        return cls(normals[rows][more.vertices][faces], tangent[faces])

    def encode(self, face: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
        """World `directions` [P, 3] in the frames at `weights` [P, 3] in `face` [P]: unit [P, 3], z above 0.

        Directions below the surface are laid onto it. (0, 0, 1) where a frame is flat.
        """
        up = interpolate(self.normal[face], weights)
        along, side = interpolate(self.tangent[face], weights).split([3, 1], 1)
        across = cross(up, along) * side.sign()
        # The frame is not square: its inverse is of cross products, and their scale does not matter.
        parts = torch.stack([dot(cross(across, up), directions), dot(cross(up, along), directions)], 1)
        height = dot(cross(along, across), directions)
        volume = dot(cross(along, across), up).sign()
        local = unit(torch.cat([parts, height[:, None]], 1) * volume[:, None])
        local = torch.cat([local[:, :2], local[:, 2:].clamp_min(LEAST_Z)], 1)
        flat = (volume == 0) | (dot(directions, directions) == 0)
        return unit(torch.where(flat[:, None], local.new_tensor([0.0, 0.0, 1.0]), local))


def normal_bytes(directions: Tensor) -> Tensor:
    """uint8 [..., 3] of unit vectors: -1 is 0, 0 is 128, 1 is 255, rounded to nearest, halves up."""
    return (directions * 127.5 + 128).clamp(0, 255).to(torch.uint8)

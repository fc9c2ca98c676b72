"""Tangent-space normal encoding in MikkTSpace frames, by the glTF convention."""

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

# glTF requires z > 0: at least one byte step.
LEAST_Z = 1 / 127


@dataclass(frozen=True, eq=False)
class TangentFrames:
    """Tangent frames at face corners, as exported. normal: [F, 3, 3] float32.  tangent: [F, 3, 4] float32.

    Both are interpolated without renormalisation (as MikkTSpace); the bitangent is cross(normal, tangent) * w. +x
    points along u, +y along v (up), +z out of the surface. Readers that interpolate alike decode the exact normals.
    """

    normal: Tensor
    tangent: Tensor

    @classmethod
    def of(cls, mesh: Mesh, uv_map: UVMap, normals: Tensor, *, backend: str = "auto") -> TangentFrames:
        """Computes the frames of a mesh; normals: [V, 3] float32 unit vectors at its vertices."""
        joined, uv, rows = unify_indices(mesh, uv_map.uv, uv_map.faces)
        split, tangent, more = tangents(joined, normals[rows], uv, backend=backend)
        faces = split.faces.long()
        return cls(normals[rows][more.vertices][faces], tangent[faces])

    def encode(self, face: Tensor, weights: Tensor, directions: Tensor) -> Tensor:
        """Transforms world `directions` [P, 3] to the frames at barycentric `weights` [P, 3] of `face` [P] int64.

        Returns unit vectors [P, 3] with z > 0; directions below the surface are clamped to it; (0, 0, 1) for
        degenerate frames.
        """
        up = interpolate(self.normal[face], weights)
        tangent, sign = interpolate(self.tangent[face], weights).split([3, 1], 1)
        bitangent = cross(up, tangent) * sign.sign()
        # The frame is not orthogonal: invert it by cross products, up to scale.
        parts = torch.stack([dot(cross(bitangent, up), directions), dot(cross(up, tangent), directions)], 1)
        height = dot(cross(tangent, bitangent), directions)
        volume = dot(cross(tangent, bitangent), up).sign()
        local = unit(torch.cat([parts, height[:, None]], 1) * volume[:, None])
        local = torch.cat([local[:, :2], local[:, 2:].clamp_min(LEAST_Z)], 1)
        degenerate = (volume == 0) | (dot(directions, directions) == 0)
        return unit(torch.where(degenerate[:, None], local.new_tensor([0.0, 0.0, 1.0]), local))


def normal_bytes(directions: Tensor) -> Tensor:
    """Quantises unit vectors [..., 3] to uint8: -1 is 0, 0 is 128, 1 is 255, rounded to nearest, halves up."""
    return (directions * 127.5 + 128).clamp(0, 255).to(torch.uint8)

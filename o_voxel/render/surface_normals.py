"""Shading normals of a textured mesh: its vertex normals, bent by tangent-space normal maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..bake.tangent_space import TangentFrames
from ..core.vectors import unit as unit_rows
from ..material import TexturedMesh, UVMap
from ..mesh.connectivity.topology import area_vectors
from ..values import Mesh
from .vectors import cross, dot, unit


@dataclass(frozen=True, eq=False)
class SurfaceNormals:
    """Frames at face corners. normal: [F, 3, 3] float32.  tangent: [F, 3, 4] float32, or None without normal maps.

    The frames are those of the bake (MikkTSpace, interpolated without renormalisation), so a baked map decodes to the
    normals that it was made from.
    """

    normal: Tensor
    tangent: Tensor | None

    @classmethod
    def of(cls, mesh: TexturedMesh, *, mapped: bool, smooth: bool) -> SurfaceNormals | None:
        """Computes the frames of a mesh, faces [F, 3] in range, on its device; None if it has nothing to say.

        mapped: a material has a normal map.  smooth: use the mesh's normals, if any; else face normals, glTF's default.
        """
        faces = mesh.mesh.faces.long()
        normals = None if mesh.normals is None or not smooth else mesh.normals.nan_to_num(0.0, 0.0, 0.0)
        if not mapped or not len(faces):
            return None if normals is None else cls(normals[faces], None)
        uv_faces = mesh.uv_rows.long()
        surface = mesh.mesh
        if normals is None:
            surface = Mesh(
                surface.vertices[faces].view(-1, 3), torch.arange(faces.numel(), device=faces.device).view(-1, 3)
            )
            flat = unit_rows(area_vectors(mesh.mesh.vertices, faces)).float()
            normals = flat.repeat_interleave(3, 0)
        uv_map = UVMap(mesh.uv.nan_to_num(0.0, 0.0, 0.0), uv_faces, torch.zeros_like(faces[:, 0]))
        frames = TangentFrames.of(surface, uv_map, normals)
        return cls(frames.normal, frames.tangent)

    def facing(self, face: Tensor, bary: Tensor, flat: Tensor, local: Tensor | None = None) -> Tensor:
        """Unit normals [3, P] at `bary` [3, P] in `face` [P], turned to the side of the face normals `flat` [3, P].

        local: [3, P] tangent-space directions, of any length, +x along u and +y along v (up); None: straight up. Where
        the vertex normals vanish, the face normal.
        """
        weight = bary.T[..., None]
        up = (self.normal.index_select(0, face) * weight).sum(1).T
        normal = up
        if local is not None and self.tangent is not None:
            tangent = (self.tangent.index_select(0, face) * weight).sum(1).T
            bitangent = cross(up, tangent[:3]) * tangent[3].sign()
            normal = tangent[:3] * local[0] + bitangent * local[1] + up * local[2]
        normal = unit(torch.where(dot(up, flat) < 0, -normal, normal))
        return torch.where(dot(normal, normal) > 0, normal, flat)

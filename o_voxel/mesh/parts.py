"""Parts of a mesh put onto a surface that was made from it."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..material import TexturedMesh
from ..ops.closest_point import build_index, closest_point


@torch.no_grad()
def with_parts_of(mesh: TexturedMesh, source: TexturedMesh) -> TexturedMesh:
    """Returns `mesh`, faces [F, 3], with the parts of `source`: each face gets that of the source's face nearest to its
    centre. Both in world units and on one device; a source of one part is not searched. Its one name goes along.

    A material keeps its name where both have one only. Deterministic. Raises as `build_index` and `closest_point`.
    """
    if len(mesh.materials) == len(source.materials) == 1:
        mesh = replace(mesh, materials=(replace(mesh.materials[0], name=source.materials[0].name),))
    if source.part_ids is None or len(source.part_names) < 2 or len(source.mesh.faces) == 0:
        return replace(mesh, part_ids=None, part_names=source.part_names[:1])
    centers = mesh.mesh.vertices[mesh.mesh.faces.long()].mean(1)
    nearest = closest_point(build_index(source.mesh), centers).face
    return replace(mesh, part_ids=source.part_ids[nearest], part_names=source.part_names)

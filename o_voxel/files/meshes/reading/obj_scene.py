"""Reads an OBJ through trimesh, which drops the colours of vertices that have a material or texture coordinates."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trimesh


def obj_scene(content: bytes, files: trimesh.resolvers.Resolver) -> trimesh.Scene:
    """Returns the scene of an OBJ's content, UTF-8. Its vertex colours `v x y z r g b` are kept beside materials, as
    the vertex attribute "color", [V, 4] uint8, which multiplies the material's colour as in glTF.

    files: finds libraries and textures. Raises what trimesh raises for a malformed file.
    """
    import trimesh
    from trimesh.exchange.obj import load_obj
    from trimesh.visual.color import to_rgba

    found = load_obj(io.BytesIO(content), resolver=files, process=False)
    for mesh in found.get("geometry", {}).values():
        if mesh.get("visual") is not None and "vertex_colors" in mesh:
            mesh["visual"].vertex_attributes["color"] = to_rgba(mesh.pop("vertex_colors"))
    return trimesh.load_scene(found)

"""Writes glTF 2.0 binary files (GLB), y up. Deterministic."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ....core.atomic_io import FilePath, write_files
from ....material import TexturedMesh
from ....values import Mesh
from ....voxels.sample import colored
from ..options import SaveOptions
from ..size_budget import SizedFile, fit_size_budget
from ..vertex_buffer import as_textured, checked, vertex_buffer, with_normals
from .document import Document
from .draco import add_compressed_primitive
from .geometry import add_primitive, primitive, quantized
from .materials import MaterialWriter, largest_side


def write_glb(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    materials: Tensor | None = None,
    options: SaveOptions = SaveOptions(),
) -> Path:
    """Writes `mesh` with its materials or, for a bare Mesh, with vertex `materials` [V, 6] float (see `colored`).

    Creates missing folders; writes atomically. Raises as `encode_glb`, and OSError.
    """
    return write_files({Path(path): encode_glb(mesh, materials, options).content})


def encode_glb(
    mesh: Mesh | TexturedMesh, materials: Tensor | None = None, options: SaveOptions = SaveOptions()
) -> SizedFile:
    """Encodes the file that `write_glb` writes; lists the quality reductions made for `options.max_bytes`.

    materials: [V, 6] float, see `colored`, for a bare Mesh. Writes one primitive per material, and one image each for
    base colour with alpha, occlusion-roughness-metallic, normal and emission. Drops unused vertices; Draco may merge
    identical ones. Raises ValueError for an empty mesh, non-finite numbers, textures that cannot share an image, and an
    unreachable size; ImportError for Draco without DracoPy.
    """
    options.y_up(".glb")
    if materials is not None and isinstance(mesh, TexturedMesh):
        raise ValueError("materials: expected None with a TexturedMesh, which has its own")
    whole = checked(as_textured(mesh))
    if materials is not None:
        whole = checked(colored(whole.mesh, materials))
    flat = vertex_buffer(with_normals(whole, options.crease_deg))
    parts = [(row, flat.part(row)) for row in flat.material_ids.unique().tolist()]
    geometry = [
        primitive(part, options.scale, tangents=whole.materials[row].normal_texture is not None) for row, part in parts
    ]
    used = tuple(whole.materials[row] for row, _ in parts)

    def encode(chosen: SaveOptions) -> bytes:
        document = Document()
        writer = MaterialWriter(document, chosen)
        pieces, transform = quantized(geometry) if chosen.quantize else (geometry, {})
        if chosen.quantize:
            document.use("KHR_mesh_quantization", required=True)
        add = add_compressed_primitive if chosen.draco else add_primitive
        primitives = [add(document, piece, writer.add(material)) for piece, material in zip(pieces, used, strict=True)]
        root = {"mesh": document.add("meshes", {"primitives": primitives}), **transform}
        document.add("scenes", {"nodes": [document.add("nodes", root)]})
        return document.to_glb(chosen.extras)

    return fit_size_budget(encode, options, largest_side(used))

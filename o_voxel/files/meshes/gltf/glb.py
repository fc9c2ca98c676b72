"""glTF 2.0 binary files. y up, as glTF wants; bytes are a function of the input alone."""

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
    """Writes `mesh`, with its materials or, for a bare Mesh, with `materials` as `colored` takes them.

    Missing folders are made; the file appears whole or not at all. Raises as `encode_glb`, and OSError.
    """
    return write_files({Path(path): encode_glb(mesh, materials, options).content})


def encode_glb(
    mesh: Mesh | TexturedMesh, materials: Tensor | None = None, options: SaveOptions = SaveOptions()
) -> SizedFile:
    """The bytes of the file that `write_glb` writes, and what was given up for `options.max_bytes`.

    One primitive a material; base colour with alpha, occlusion-roughness-metallic, normal and emission as one image
    each. A Draco stream may merge vertices that are alike. Vertices that no face uses are left out.
    Raises ValueError for an empty mesh, for numbers that are not finite, for materials that one image cannot hold and
    for a size that cannot be reached; ImportError for Draco without DracoPy.
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
    shown = tuple(whole.materials[row] for row, _ in parts)

    def encode(chosen: SaveOptions) -> bytes:
        document = Document()
        writer = MaterialWriter(document, chosen)
        pieces, place = quantized(geometry) if chosen.quantize else (geometry, {})
        if chosen.quantize:
            document.use("KHR_mesh_quantization", required=True)
        add = add_compressed_primitive if chosen.draco else add_primitive
        primitives = [add(document, piece, writer.add(material)) for piece, material in zip(pieces, shown, strict=True)]
        root = {"mesh": document.add("meshes", {"primitives": primitives}), **place}
        document.add("scenes", {"nodes": [document.add("nodes", root)]})
        return document.to_glb()

    return fit_size_budget(encode, options, largest_side(shown))

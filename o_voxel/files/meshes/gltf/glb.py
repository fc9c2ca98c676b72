"""Writes glTF 2.0 binary files (GLB), y up. Deterministic."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ....core.atomic_io import FilePath, write_files
from ....core.progress import Progress, in_background, scaled
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

# Shares of the run time for progress: encoding of writing, geometry of encoding; and seconds, on two CPU cores.
ENCODE_SHARE, GEOMETRY_SHARE, ENCODE_SECONDS = 0.9, 0.3, 5


def write_glb(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    materials: Tensor | None = None,
    options: SaveOptions = SaveOptions(),
    *,
    progress: Progress | None = None,
) -> Path:
    """Writes `mesh` with its materials or, for a bare Mesh, with vertex `materials` [V, 6] float (see `colored`).

    Creates missing folders; writes atomically. Raises as `encode_glb`, and OSError. progress: called with the
    fraction done, 0 to 1; if it raises, nothing is written.
    """
    made = encode_glb(mesh, materials, options, progress=scaled(progress, 0.0, ENCODE_SHARE))
    return write_files({Path(path): made.content}, scaled(progress, ENCODE_SHARE, 1 - ENCODE_SHARE))


def encode_glb(
    mesh: Mesh | TexturedMesh,
    materials: Tensor | None = None,
    options: SaveOptions = SaveOptions(),
    *,
    progress: Progress | None = None,
) -> SizedFile:
    """Encodes the file that `write_glb` writes; lists the quality reductions made for `options.max_bytes`.

    materials: [V, 6] float, see `colored`, for a bare Mesh. Writes one primitive per material, and one image each for
    base colour with alpha, occlusion-roughness-metallic, normal and emission. Drops unused vertices; Draco may merge
    identical ones. Raises ValueError for an empty mesh, non-finite numbers, textures that cannot share an image, and an
    unreachable size; ImportError for Draco without DracoPy. progress: called with the fraction done; may raise.
    """
    return in_background(lambda report: _encoded(mesh, materials, options, report), progress, ENCODE_SECONDS)


def _encoded(mesh: Mesh | TexturedMesh, materials: Tensor | None, options: SaveOptions, report: Progress) -> SizedFile:
    """`encode_glb`."""
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
    report(GEOMETRY_SHARE)
    used = tuple(whole.materials[row] for row, _ in parts)

    def encode(chosen: SaveOptions) -> bytes:
        document = Document()
        # Each call says that it goes on; how many images and tries there will be is not known.
        writer = MaterialWriter(document, chosen, lambda fraction: report(GEOMETRY_SHARE))
        pieces, transform = quantized(geometry) if chosen.quantize else (geometry, {})
        if chosen.quantize:
            document.use("KHR_mesh_quantization", required=True)
        add = add_compressed_primitive if chosen.draco else add_primitive
        primitives = [add(document, piece, writer.add(material)) for piece, material in zip(pieces, used, strict=True)]
        root = {"mesh": document.add("meshes", {"primitives": primitives}), **transform}
        document.add("scenes", {"nodes": [document.add("nodes", root)]})
        return document.to_glb(chosen.extras)

    return fit_size_budget(encode, options, largest_side(used))

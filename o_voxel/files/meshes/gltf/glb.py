"""Writes glTF 2.0 binary files (GLB), y up. Deterministic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ....core.atomic_io import FilePath, write_files
from ....core.progress import Progress, in_background, scaled
from ....material import Material, TexturedMesh
from ....values import Mesh
from ....voxels.sample import colored
from ..images import ImageFile
from ..options import SaveOptions
from ..prepare import pivot_of, prepared
from ..size_budget import SizedFile, fit_size_budget
from ..vertex_buffer import as_textured, checked, vertex_buffer, with_normals
from .document import Document
from .draco import add_compressed_primitive
from .geometry import Primitive, add_primitive, primitive, quantized
from .materials import MaterialWriter, largest_side

# Shares of the run time for progress: encoding of writing, geometry of encoding; and seconds, on two CPU cores.
ENCODE_SHARE, GEOMETRY_SHARE, ENCODE_SECONDS = 0.9, 0.3, 5


@dataclass(frozen=True, eq=False)
class MoreNodes:
    """What a GLB holds beside its mesh. name: of the mesh's node; empty: none.

    lods: coarser versions of the mesh, the finest first, as MSFT_lod; readers without it show the mesh alone.
    collision: convex hulls, each a node UCX_<name>_<number>, the name by which Unreal Engine knows them; other readers
    show them.
    """

    name: str = ""
    lods: tuple[TexturedMesh, ...] = ()
    collision: tuple[Mesh, ...] = ()


def write_glb(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    materials: Tensor | None = None,
    options: SaveOptions = SaveOptions(),
    *,
    more: MoreNodes = MoreNodes(),
    progress: Progress | None = None,
) -> Path:
    """Writes `mesh` with its materials or, for a bare Mesh, with vertex `materials` [V, 6] float (see `colored`).

    Creates missing folders; writes atomically. Raises as `encode_glb`, and OSError. progress: called with the
    fraction done, 0 to 1; if it raises, nothing is written.
    """
    made = encode_glb(mesh, materials, options, more=more, progress=scaled(progress, 0.0, ENCODE_SHARE))
    return write_files({Path(path): made.content}, scaled(progress, ENCODE_SHARE, 1 - ENCODE_SHARE))


def encode_glb(
    mesh: Mesh | TexturedMesh,
    materials: Tensor | None = None,
    options: SaveOptions = SaveOptions(),
    *,
    more: MoreNodes = MoreNodes(),
    progress: Progress | None = None,
) -> SizedFile:
    """Encodes the file that `write_glb` writes; lists the quality reductions made for `options.max_bytes`.

    materials: [V, 6] float, see `colored`, for a bare Mesh. Writes one primitive per material, and one image each for
    base colour with alpha, occlusion-roughness-metallic, normal and emission. Drops unused vertices; Draco may merge
    identical ones. more: further nodes, which share its pivot. Raises ValueError for an empty mesh, non-finite numbers,
    textures that cannot share an image, and an unreachable size; ImportError for Draco without DracoPy. progress:
    called with the fraction done; may raise.
    """
    return in_background(lambda report: _encoded(mesh, materials, options, more, report), progress, ENCODE_SECONDS)


def _encoded(
    mesh: Mesh | TexturedMesh, materials: Tensor | None, options: SaveOptions, more: MoreNodes, report: Progress
) -> SizedFile:
    """`encode_glb`."""
    options.y_up(".glb")
    if materials is not None and isinstance(mesh, TexturedMesh):
        raise ValueError("materials: expected None with a TexturedMesh, which has its own")
    whole = checked(as_textured(mesh), on_gpu=True)
    if materials is not None:
        whole = checked(colored(whole.mesh, materials), on_gpu=True)
    start = pivot_of(whole.mesh, options.pivot)
    whole, images = prepared(whole, options, start), {}
    # Images take all cores, geometry about one: both at once.
    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(_encode_images, whole, options, images, report)
        geometry, counts, used = _geometry(whole, start, options, more)
        early.result()
    report(GEOMETRY_SHARE)
    hulls = len(more.collision)

    def encode(chosen: SaveOptions) -> bytes:
        document = Document()
        # Each call says that it goes on; how many images and tries there will be is not known.
        ready = images if chosen is options else None
        writer = MaterialWriter(document, chosen, lambda fraction: report(GEOMETRY_SHARE), ready)
        stored, transform = quantized(geometry) if chosen.quantize else (geometry, {})
        if chosen.quantize:
            document.use("KHR_mesh_quantization", required=True)
        add = add_compressed_primitive if chosen.draco else add_primitive
        rows = [writer.add(material) for material in used] + [None] * hulls
        primitives = [add(document, piece, row) for piece, row in zip(stored, rows, strict=True)]
        _add_nodes(document, primitives, counts, transform, more)
        return document.to_glb(chosen.extras)

    return fit_size_budget(encode, options, largest_side(used))


def _encode_images(mesh: TexturedMesh, options: SaveOptions, images: dict[tuple, ImageFile], report: Progress) -> None:
    """Encodes the images of a mesh's materials into `images`, for MaterialWriters with these options."""
    writer = MaterialWriter(Document(), options, lambda fraction: report(0.0), images)
    for material in _used(mesh).materials:
        writer.add(material)


def _geometry(
    whole: TexturedMesh, start: Tensor, options: SaveOptions, more: MoreNodes
) -> tuple[list[Primitive], list[int], tuple[Material, ...]]:
    """The primitives of a prepared mesh, its levels of detail and its hulls, how many each of the former has, and the
    materials of those. start: [3], what is put at the origin."""
    wholes = [whole, *(prepared(checked(lod, on_gpu=True), options, start) for lod in more.lods)]
    pieces = [piece for part in wholes for piece in _pieces(part, options)]
    hulls = [prepared(checked(TexturedMesh(hull)), options, start) for hull in more.collision]
    geometry = [piece for piece, _ in pieces] + [_hull(hull, options) for hull in hulls]
    counts = [len(part.materials) for part in map(_used, wholes)]
    return geometry, counts, tuple(material for _, material in pieces)


def _used(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh with the materials that its faces use, in order."""
    ids = [0] if mesh.material_ids is None else mesh.material_ids.unique().tolist()
    return replace(mesh, materials=tuple(mesh.materials[row] for row in ids), material_ids=None)


def _pieces(mesh: TexturedMesh, options: SaveOptions) -> list[tuple[Primitive, Material]]:
    """The primitives of a prepared mesh, one per material in use."""
    flat = vertex_buffer(with_normals(mesh, options.crease_deg))
    rows = [0] if mesh.material_ids is None else flat.material_ids.unique().tolist()
    parts = [(row, flat.part(row)) for row in rows]
    paint = mesh.materials
    return [
        (primitive(part, options.scale, tangents=paint[row].normal_texture is not None), paint[row])
        for row, part in parts
    ]


def _hull(hull: TexturedMesh, options: SaveOptions) -> Primitive:
    return primitive(vertex_buffer(hull), options.scale, tangents=False)


def _add_nodes(
    document: Document, primitives: list[dict], counts: list[int], transform: dict[str, Any], more: MoreNodes
) -> None:
    """Adds the scene: the mesh with its levels of detail, of `counts` primitives each, then the collision hulls."""
    left = iter(primitives)

    def node(count: int, name: str) -> dict[str, Any]:
        named = {"name": name} if name else {}
        parts = [next(left) for _ in range(count)]
        return {**named, "mesh": document.add("meshes", {**named, "primitives": parts}), **transform}

    levels = len(counts) > 1
    nodes = [node(count, f"{more.name}_LOD{i}" if levels else more.name) for i, count in enumerate(counts)]
    hulls = [node(1, f"UCX_{more.name}_{i:02d}") for i in range(len(more.collision))]
    root, *rest = nodes
    if levels:
        document.use("MSFT_lod", required=False)
        root["extensions"] = {"MSFT_lod": {"ids": list(range(1, len(nodes)))}}
        # Share of the picture's height below which the next level is shown; the last is always shown.
        root["extras"] = {"MSFT_screencoverage": [0.5**i for i in range(1, len(nodes))] + [0.0]}
    for entry in (root, *rest, *hulls):
        document.add("nodes", entry)
    document.add("scenes", {"nodes": [0, *range(len(nodes), len(nodes) + len(hulls))]})

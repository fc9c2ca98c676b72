"""Writes glTF 2.0 binary files (GLB), y up. Deterministic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
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
from .geometry import Primitive, add_primitive, primitive, primitives, quantized, without_tangents
from .materials import MaterialWriter, largest_side

# Shares of the run time for progress: encoding of writing, geometry of encoding; and seconds, on two CPU cores.
ENCODE_SHARE, GEOMETRY_SHARE, ENCODE_SECONDS = 0.9, 0.3, 5

# The parts of a mesh that have faces: name, number of primitives.
Level = list[tuple[str, int]]


@dataclass(frozen=True, eq=False)
class MoreNodes:
    """What a GLB holds beside its mesh. name: of the mesh's node, or of the one above its parts; empty: the part's own.

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

    materials: [V, 6] float, see `colored`, for a bare Mesh. Writes a node with a mesh for each part, without transform,
    in it one primitive per material with vertices of its own, and one image each for base colour with alpha,
    occlusion-roughness-metallic, normal and emission. Drops unused vertices; Draco may merge identical ones.
    more: further nodes, which share its pivot. Raises ValueError for an empty mesh, non-finite numbers,
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
        geometry, rows, used, levels = _geometry(whole, start, options, more)
        early.result()
    report(GEOMETRY_SHARE)

    def encode(chosen: SaveOptions) -> bytes:
        document = Document()
        # Each call says that it goes on; how many images and tries there will be is not known.
        ready = images if chosen is options else None
        writer = MaterialWriter(document, chosen, lambda fraction: report(GEOMETRY_SHARE), ready)
        stored, transform = quantized(geometry) if chosen.quantize else (geometry, {})
        if chosen.quantize:
            document.use("KHR_mesh_quantization", required=True)
        add = add_compressed_primitive if chosen.draco else add_primitive
        numbers = [writer.add(material) for material in used]
        paint = [None if row is None else numbers[row] for row in rows]
        added = [add(document, piece, number) for piece, number in zip(stored, paint, strict=True)]
        _add_nodes(document, added, levels, transform, more)
        return document.to_glb(chosen.extras)

    return fit_size_budget(encode, options, largest_side(used))


def _encode_images(mesh: TexturedMesh, options: SaveOptions, images: dict[tuple, ImageFile], report: Progress) -> None:
    """Encodes the images of a mesh's materials into `images`, for MaterialWriters with these options."""
    writer = MaterialWriter(Document(), options, lambda fraction: report(0.0), images)
    for material in _used(mesh).materials:
        writer.add(material)


def _geometry(
    whole: TexturedMesh, start: Tensor, options: SaveOptions, more: MoreNodes
) -> tuple[list[Primitive], list[int | None], tuple[Material, ...], list[Level]]:
    """The primitives of a prepared mesh, its levels of detail and its hulls, the material of each as a row of those
    that follow, and the levels. start: [3], what is put at the origin."""
    wholes = [whole, *(prepared(checked(lod, on_gpu=True), options, start) for lod in more.lods)]
    geometry: list[Primitive] = []
    rows: list[int | None] = []
    used: list[Material] = []
    levels: list[Level] = []
    for mesh in wholes:
        pieces, level = _pieces(mesh, options)
        geometry += [piece for piece, _ in pieces]
        rows += [len(used) + row for _, row in pieces]
        used += _used(mesh).materials
        levels.append(level)
    geometry += [_hull(prepared(checked(TexturedMesh(hull)), options, start), options) for hull in more.collision]
    return geometry, rows + [None] * len(more.collision), tuple(used), levels


def _used(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh with the materials that its faces use, in order."""
    ids = [0] if mesh.material_ids is None else mesh.material_ids.unique().tolist()
    return replace(mesh, materials=tuple(mesh.materials[row] for row in ids), material_ids=None)


def _pieces(mesh: TexturedMesh, options: SaveOptions) -> tuple[list[tuple[Primitive, int]], Level]:
    """The primitives of a prepared mesh, one per part and material in use, each with its row of `_used`; the parts."""
    flat = vertex_buffer(with_normals(mesh, options.crease_deg))
    used = [0] if mesh.material_ids is None else flat.material_ids.unique().tolist()
    bumpy = [mesh.materials[row].normal_texture is not None for row in used]
    if mesh.part_ids is None:
        made = [primitive(flat.part(row), options.scale, tangents=bump) for row, bump in zip(used, bumpy, strict=True)]
        return list(zip(made, range(len(used)), strict=True)), [("".join(mesh.part_names), len(used))]
    number = {row: place for place, row in enumerate(used)}
    grouped, groups = flat.grouped(mesh.part_rows * len(mesh.materials) + flat.material_ids)
    owner, material = zip(*(divmod(key, len(mesh.materials)) for key in groups.keys), strict=True)
    rows = [number[row] for row in material]
    pieces = [
        piece if bumpy[row] else without_tangents(piece)
        for piece, row in zip(primitives(grouped, groups, options.scale), rows, strict=True)
    ]
    level = [(mesh.part_names[part], len(list(same))) for part, same in groupby(owner)]
    return list(zip(pieces, rows, strict=True)), level


def _hull(hull: TexturedMesh, options: SaveOptions) -> Primitive:
    return primitive(vertex_buffer(hull), options.scale, tangents=False)


def _add_nodes(
    document: Document, primitives: list[dict], levels: list[Level], transform: dict[str, Any], more: MoreNodes
) -> None:
    """Adds the scene: the mesh with its levels of detail, then the collision hulls. A mesh of several parts has a node
    for each: in a scene of its own, or else below the level's."""
    left = iter(primitives)

    def node(count: int, name: str) -> dict[str, Any]:
        named = {"name": name} if name else {}
        parts = [next(left) for _ in range(count)]
        return {**named, "mesh": document.add("meshes", {**named, "primitives": parts}), **transform}

    lone = not (more.name or more.lods or more.collision)
    if lone:
        nodes = [node(count, name) for name, count in levels[0]]
        for entry in nodes:
            document.add("nodes", entry)
        document.add("scenes", {"nodes": list(range(len(nodes)))})
        return
    several = len(levels) > 1
    roots: list[dict[str, Any]] = []
    below: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for i, level in enumerate(levels):
        title = f"{more.name}_LOD{i}" if several else more.name
        if len(level) == 1:
            roots.append(node(level[0][1], title or level[0][0]))
        else:
            roots.append({"name": title} if title else {})
            below.append((roots[-1], [node(count, name) for name, count in level]))
    hulls = [node(1, f"UCX_{more.name}_{i:02d}") for i in range(len(more.collision))]
    if several:
        document.use("MSFT_lod", required=False)
        roots[0]["extensions"] = {"MSFT_lod": {"ids": list(range(1, len(roots)))}}
        # Share of the picture's height below which the next level is shown; the last is always shown.
        roots[0]["extras"] = {"MSFT_screencoverage": [0.5**i for i in range(1, len(roots))] + [0.0]}
    for entry in (*roots, *hulls):
        document.add("nodes", entry)
    for root, parts in below:
        root["children"] = [document.add("nodes", part) for part in parts]
    document.add("scenes", {"nodes": [0, *range(len(roots), len(roots) + len(hulls))]})

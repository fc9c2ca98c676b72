"""Nodes that load, save and preview mesh files."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...o_voxel.core.progress import Progress, scaled
from ...o_voxel.files.meshes.gltf.glb import write_glb
from ...o_voxel.files.meshes.options import SaveOptions
from ...o_voxel.files.meshes.read import UP_OF_SUFFIX, load_textured_mesh
from ...o_voxel.files.meshes.size_budget import SizeError
from ...o_voxel.files.meshes.write import save_mesh
from ...o_voxel.material import TexturedMesh
from ...o_voxel.values import Mesh, VoxelField
from ...o_voxel.voxels.from_mesh import fitted
from ...o_voxel.voxels.sample import vertex_materials
from .. import host
from ..sockets import ANY_MESH, MESH, TEXTURED_MESH, VOXELS, expect, painted, surface, textured
from ..widgets import FILES_GROUP, filename_prefix

log = logging.getLogger(__name__)

EXAMPLE_MESHES = host.ROOT / "assets" / "meshes"
MESH_SUFFIXES = tuple(UP_OF_SUFFIX)
FORMATS = ("glb", "obj", "ply", "stl")
GEOMETRIES = ("full", "quantized", "draco")
MIB = 2**20
# ComfyUI's socket types of files; those of one format carry that format's name.
FILE_3D = "FILE_3D"
FILE_3D_GLB = "FILE_3D_GLB"
ANY_FILE = ",".join((FILE_3D, FILE_3D_GLB, "FILE_3D_GLTF", "FILE_3D_OBJ", "FILE_3D_PLY", "FILE_3D_STL", "STRING"))
PIVOTS = ["as is", "base", "centre"]
PIVOT_TOOLTIP = (
    "What is put at the origin. base: the middle of the floor, so that the mesh stands on the ground; centre: the "
    "middle of the mesh; as is: nothing moves."
)
PIVOT = {name: (PIVOTS, {"default": name, "tooltip": PIVOT_TOOLTIP, "advanced": True}) for name in PIVOTS}
NORMAL_MAPS = (
    ["opengl", "directx"],
    {
        "default": "opengl",
        "tooltip": "opengl: +y up, as glTF, Blender, Unity and Godot expect. directx: green turned over, for Unreal "
        "Engine and 3ds Max where they do not do it themselves; glTF viewers then light the mesh wrongly.",
        "advanced": True,
    },
)
# Where ComfyUI puts the graph, for the files that carry it.
HIDDEN = {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}


class LoadMesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = (
        "Loads a GLB, OBJ, PLY or STL with its materials, rotated to z up. Drop a file on the node to upload it."
    )
    FUNCTION = "load"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")
    OUTPUT_TOOLTIPS = ("The mesh with its materials, z up.", "Its surface alone.")
    SEARCH_ALIASES = ("import mesh", "open mesh", "load 3d", "glb", "gltf", "obj", "ply", "stl", "upload mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        path = (
            "A file of ComfyUI's input folder, or its subfolder 3d: .glb, .gltf, .obj, .ply, .stl. Saved files too: "
            "3d/asset_00001_.glb [output]."
        )
        fit = "Centre and scale the mesh to the unit cube, the domain of the models. Off: keep position and size."
        other = "Optional, instead of the file above: a 3D file of another node, or the name that Save Mesh returns."
        return {
            "required": {
                "file": (host.input_files(MESH_SUFFIXES), {"tooltip": path}),
                "fit_unit_cube": ("BOOLEAN", {"default": True, "tooltip": fit}),
            },
            "optional": {"file_3d": (ANY_FILE, {"tooltip": other})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: Any = None, input_types: Mapping[str, Any] | None = None) -> bool | str:
        accepted = {"file": "STRING,COMBO", "fit_unit_cube": "BOOLEAN", "file_3d": ANY_FILE}
        return loadable("file", file, MESH_SUFFIXES, input_types or {}, accepted, replaced_by="file_3d")

    @classmethod
    def IS_CHANGED(cls, file: Any = None, **others: Any) -> str:
        return host.changed(file)

    def load(self, file: str, fit_unit_cube: bool, file_3d: Any = None) -> tuple[TexturedMesh, Mesh] | dict[str, Any]:
        warnings: list[str] = []
        if file_3d is None:
            name, mesh = file, _read(host.input_path(file), file, warnings.append)
        else:
            with host.received(file_3d) as (path, name):
                mesh = _read(path, name, warnings.append)
        mesh = fitted(mesh) if fit_unit_cube else mesh
        result = mesh, mesh.mesh
        host.show_text([f"{len(mesh.mesh.faces):,} triangles", *warnings])
        for line in warnings:
            log.warning("%s: %s", name, line)
        return {"ui": {"text": warnings}, "result": result} if warnings else result


class ExampleMesh:
    """Has the outputs of Load Mesh for the same file."""

    CATEGORY = FILES_GROUP
    DESCRIPTION = "Loads one of the pack's example meshes. Replace it with Load Mesh to use your own."
    FUNCTION = "load"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")
    OUTPUT_TOOLTIPS = ("The mesh with its materials and textures.", "Its surface alone.")
    SEARCH_ALIASES = ("sample mesh", "test mesh", "demo mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        names = sorted(path.stem for path in EXAMPLE_MESHES.glob("*.glb"))
        return {"required": {"mesh": (names, {"tooltip": "A mesh with textures, about 1 m long, z up."})}}

    def load(self, mesh: str) -> tuple[TexturedMesh, Mesh]:
        loaded = fitted(load_textured_mesh(EXAMPLE_MESHES / f"{mesh}.glb", progress=host.progress()))
        return loaded, loaded.mesh


class SaveGLB:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Saves a mesh as GLB in ComfyUI's output folder, with vertex colours if voxels are connected."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING", FILE_3D_GLB)
    RETURN_NAMES = ("model_file", "file_3d")
    OUTPUT_TOOLTIPS = (
        "The saved file's name, relative to the output folder.",
        "The saved file, for nodes that take a 3D file.",
    )
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("glb", "gltf", "export glb", "save mesh", "vertex colours", "vertex colors")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        colors = "Materials from Decode Mesh, saved as vertex colours. A mesh with textures or colours keeps its own."
        return {
            "required": {
                "mesh": (
                    ANY_MESH,
                    {"tooltip": "From Decode Mesh, or any other mesh; a textured one keeps its textures."},
                ),
                "filename_prefix": filename_prefix("3d/trellis2"),
            },
            "optional": {"voxels": (VOXELS, {"tooltip": colors})},
            "hidden": HIDDEN,
        }

    def save(
        self,
        mesh: Mesh | TexturedMesh,
        filename_prefix: str,
        voxels: VoxelField | None = None,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        report = host.progress()
        whole, materials = _colored(mesh, voxels, scaled(report, 0.0, 0.3))
        path, subfolder = host.output_path(filename_prefix, "glb")
        options = SaveOptions(extras=host.metadata(prompt, extra_pnginfo))
        write_glb(path, whole, materials, options, progress=scaled(report, 0.3, 0.7))
        return shown(path, subfolder)


class SaveMesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Saves a mesh with its textures in ComfyUI's output folder: GLB, OBJ, PLY or STL."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING", FILE_3D)
    RETURN_NAMES = ("model_file", "file_3d")
    OUTPUT_TOOLTIPS = (
        "The saved file's name, relative to the output folder.",
        "The saved file, for nodes that take a 3D file.",
    )
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("stl", "glb", "gltf", "obj", "ply", "export mesh", "export 3d", "save 3d", "3d print")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kind = "glb: everything in one file; obj: textures in separate files; ply: vertex colours; stl: shape only."
        images = (
            "Texture format of a glb. png: opens everywhere; jpeg: a quarter of the size; webp: smallest, but not read "
            "by game engines."
        )
        budget = "Maximum size of a glb in MiB, met by smaller encodings, then by smaller textures. 0: no limit."
        geometry = (
            "Vertex format of a glb. quantized: half the size; draco: needs the package DracoPy and a viewer with "
            "Draco."
        )
        scale = (
            "File units per world unit; the object is about 1 long. For STL in millimetres, e.g. 100: about 100 mm "
            "long."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": "From Game-Ready Asset, Bake Textures, Load Mesh, Simplify Mesh …"}),
                "filename_prefix": filename_prefix("3d/asset"),
                "format": (list(FORMATS), {"default": "glb", "tooltip": kind}),
                "images": (["png", "jpeg", "webp"], {"default": "png", "tooltip": images}),
                "geometry": (list(GEOMETRIES), {"default": "full", "tooltip": geometry, "advanced": True}),
                "max_mib": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 4096.0, "step": 0.1, "tooltip": budget, "advanced": True},
                ),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.001, "max": 10000.0, "step": 0.001, "tooltip": scale}),
            },
            "optional": {"pivot": PIVOT["as is"], "normal_maps": NORMAL_MAPS},
            "hidden": HIDDEN,
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, format: str | None = None, geometry: str | None = None, max_mib: float | None = None
    ) -> bool | str:
        # ComfyUI leaves the range and the choices of widgets that stand here to this function; a connected one is None.
        if format is not None and format not in FORMATS:
            return f"format: expected one of {', '.join(FORMATS)}, got {format!r}"
        if geometry is not None and geometry not in GEOMETRIES:
            return f"geometry: expected one of {', '.join(GEOMETRIES)}, got {geometry!r}"
        if max_mib is not None and not 0 <= max_mib <= 4096:
            return f"max_mib: expected 0 to 4096, got {max_mib}"
        return _unsavable(format, geometry, max_mib) or True

    def save(
        self,
        mesh: Mesh | TexturedMesh,
        filename_prefix: str,
        format: str,
        images: str = "png",
        geometry: str = "full",
        max_mib: float = 0.0,
        scale: float = 1.0,
        pivot: str = "as is",
        normal_maps: str = "opengl",
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        problem = _unsavable(format, geometry, max_mib)
        if problem:
            raise ValueError(problem)
        options = SaveOptions(
            scale=scale,
            image_format=images,
            quantize=geometry == "quantized",
            draco=geometry == "draco",
            max_bytes=int(max_mib * MIB) or None,
            extras=host.metadata(prompt, extra_pnginfo),
            pivot=pivot,
            normal_maps=normal_maps,
        )
        path, subfolder = host.output_path(filename_prefix, format)
        try:
            whole = textured(mesh)
            whole = host.geometry_at_work(whole) if format == "glb" else host.at_rest(whole)
            save_mesh(path, whole, options, progress=host.progress())
        except SizeError as error:
            raise ValueError(
                f"max_mib: expected at least {math.ceil(error.smallest / MIB * 100) / 100:.2f} MiB, the smallest that "
                f"textures and encodings allow, got {max_mib:g}; simplify the mesh to fewer faces"
            ) from None
        return shown(path, subfolder)


class PreviewMesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Writes a mesh as GLB to ComfyUI's temp folder, to look at without saving it."
    FUNCTION = "preview"
    RETURN_TYPES = ("STRING", FILE_3D_GLB)
    RETURN_NAMES = ("model_file", "file_3d")
    OUTPUT_TOOLTIPS = ("The temporary file's name.", "The temporary file, for nodes that take a 3D file.")
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("view mesh", "show mesh", "preview 3d", "3d viewer", "inspect mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        colors = "Materials from Decode Mesh, shown as vertex colours. A mesh with textures or colours keeps its own."
        return {
            "required": {"mesh": (ANY_MESH, {"tooltip": "Any mesh, with or without materials."})},
            "optional": {"voxels": (VOXELS, {"tooltip": colors})},
        }

    def preview(self, mesh: Mesh | TexturedMesh, voxels: VoxelField | None = None) -> dict[str, Any]:
        report = host.progress()
        whole, materials = _colored(mesh, voxels, scaled(report, 0.0, 0.3))
        path = host.temp_path("trellis2_preview", "glb")
        write_glb(path, whole, materials, progress=scaled(report, 0.3, 0.7))
        shown = {"filename": path.name, "subfolder": "", "type": "temp"}
        return {"ui": {"3d": [shown]}, "result": (f"{path.name} [temp]", host.file_3d(path, "temp"))}


def loadable(
    widget: str,
    name: Any,
    suffixes: tuple[str, ...],
    linked: Mapping[str, Any],
    accepted: Mapping[str, str],
    replaced_by: str = "",
) -> bool | str:
    """Returns True if a loader's inputs are good, else what is wrong, for VALIDATE_INPUTS.

    linked: the types of the connected inputs, which ComfyUI leaves to this check: a STRING may be a name.
    accepted: the types that each input takes, with commas.  replaced_by: the input that makes the widget needless.
    """
    for key, kind in linked.items():
        kinds = {"COMBO"} if isinstance(kind, list) else {part.strip() for part in str(kind).split(",")}
        if "*" not in kinds and kinds.isdisjoint(accepted.get(key, "*").split(",")):
            return f"{key}: expected {accepted.get(key)}, got {kind}"
    if widget in linked or replaced_by in linked:
        return True
    problem = host.file_problem(name, suffixes)
    return True if problem is None else problem if problem.startswith(f"{widget}:") else f"{widget}: {problem}"


def _read(path: Path, name: str, warn: Callable[[str], None]) -> TexturedMesh:
    with host.opened(path, name):
        return load_textured_mesh(path, progress=host.progress(), on_warning=warn)


def _colored(
    mesh: Mesh | TexturedMesh, voxels: VoxelField | None, progress: Progress
) -> tuple[Mesh | TexturedMesh, Any]:
    """Returns (mesh, vertex materials [V, 6] or None) at work, textures at rest; voxels colour only a mesh without
    materials."""
    shape = surface(mesh)
    if voxels is None or painted(mesh):
        return host.geometry_at_work(mesh), None
    field, shape = host.at_work(expect(voxels, VOXELS)), host.at_work(shape)
    return shape, vertex_materials(shape, field, progress=progress)


def _unsavable(format: str | None, geometry: str | None, max_mib: float | None) -> str | None:
    """Returns why Save Mesh cannot write with these widgets, None if it can or if one is not known yet."""
    if format == "glb" and geometry == "draco" and find_spec("DracoPy") is None:
        return "geometry: draco needs the package DracoPy (pip install DracoPy); without it, quantized is the smallest"
    if max_mib and format is not None and format != "glb":
        return f"max_mib: expected 0 for format {format}, got {max_mib:g}; only a glb is fitted to a size"
    return None


def shown(path: Path, subfolder: str) -> dict[str, Any]:
    """Returns the preview entry of a saved model for ComfyUI, its path for Preview 3D, and the file itself."""
    saved = {"filename": path.name, "subfolder": subfolder, "type": "output"}
    name = (f"{subfolder}/" if subfolder else "") + path.name
    return {"ui": {"3d": [saved]}, "result": (name, host.file_3d(path))}

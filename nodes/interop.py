"""Nodes that convert to and from ComfyUI's MESH and other mesh packs' TRIMESH."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..o_voxel.core.progress import in_background
from ..o_voxel.files.meshes.comfy import from_comfy_mesh, to_comfy_mesh
from ..o_voxel.files.meshes.trimesh import from_trimesh, to_trimesh
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh
from . import host
from .sockets import ANY_MESH, COMFY_MESH, MESH, TEXTURED_MESH, TRIMESH, textured
from .widgets import FILES_GROUP

if TYPE_CHECKING:
    import trimesh


# For the estimate of the time of a conversion.
SECONDS = 2
SOURCE = (
    "From Bake Textures, Game-Ready Asset, Unwrap or Load Mesh; a plain mesh becomes white, rough, non-metallic. One "
    "material only: bake several into one first."
)


class ToComfyMesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Converts to ComfyUI's MESH, with textures except alpha; rotated to y up."
    FUNCTION = "convert"
    RETURN_TYPES = (COMFY_MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("ComfyUI's MESH, y up.",)
    SEARCH_ALIASES = ("convert mesh", "comfyui mesh", "core mesh", "export mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"textured_mesh": (ANY_MESH, {"tooltip": SOURCE})}}

    def convert(self, textured_mesh: Mesh | TexturedMesh) -> tuple[Any]:
        given = host.at_rest(textured(textured_mesh))
        mesh = in_background(lambda _: to_comfy_mesh(given), host.progress(), SECONDS)
        return (host.comfy_mesh(**vars(mesh)),)


class FromComfyMesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Converts ComfyUI's MESH, a batch to a list, with colours and textures; rotated to z up."
    FUNCTION = "convert"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")
    OUTPUT_TOOLTIPS = ("Meshes with materials, z up; a list.", "Their surfaces alone; a list.")
    OUTPUT_IS_LIST = (True, True)
    SEARCH_ALIASES = ("convert mesh", "comfyui mesh", "core mesh", "import mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mesh": (COMFY_MESH, {"tooltip": "From any ComfyUI node that outputs a MESH."})}}

    def convert(self, mesh: Any) -> tuple[list[TexturedMesh], list[Mesh]]:
        made = in_background(lambda _: list(from_comfy_mesh(mesh)), host.progress(), SECONDS)
        meshes = [host.at_rest(item) for item in made]
        return meshes, [item.mesh for item in meshes]


class ToTrimesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Converts to a trimesh object (TRIMESH) for other mesh packs, with textures; rotated to y up."
    FUNCTION = "convert"
    RETURN_TYPES = (TRIMESH,)
    RETURN_NAMES = ("trimesh",)
    OUTPUT_TOOLTIPS = ("A trimesh object, y up.",)
    SEARCH_ALIASES = ("convert mesh", "trimesh", "geompack", "export mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"textured_mesh": (ANY_MESH, {"tooltip": SOURCE})}}

    def convert(self, textured_mesh: Mesh | TexturedMesh) -> tuple[trimesh.Trimesh]:
        given = host.at_rest(textured(textured_mesh))
        return (in_background(lambda _: to_trimesh(given), host.progress(), SECONDS),)


class FromTrimesh:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Converts a trimesh object or scene (TRIMESH) of another pack, with materials."
    FUNCTION = "convert"
    RETURN_TYPES = (TEXTURED_MESH, MESH)
    RETURN_NAMES = ("textured_mesh", "mesh")
    OUTPUT_TOOLTIPS = ("The mesh with its materials, z up.", "Its surface alone.")
    SEARCH_ALIASES = ("convert mesh", "trimesh", "geompack", "import mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        up = "Up axis of the input. y: as in glTF and most mesh packs."
        return {
            "required": {
                "trimesh": (TRIMESH, {"tooltip": "From a node of another mesh pack."}),
                "up": (["y", "z"], {"default": "y", "tooltip": up}),
            }
        }

    def convert(self, trimesh: Any, up: str) -> tuple[TexturedMesh, Mesh]:
        if not hasattr(trimesh, "faces") and not hasattr(trimesh, "geometry"):
            kind = type(trimesh)
            raise TypeError(f"trimesh: expected a trimesh mesh or scene, got {kind.__module__}.{kind.__qualname__}")
        made = in_background(lambda _: from_trimesh(trimesh, y_up=up == "y"), host.progress(), SECONDS)
        converted = host.at_rest(made)
        return converted, converted.mesh

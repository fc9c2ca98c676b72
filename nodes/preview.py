"""Nodes that show a mesh: renderings as IMAGE, its UV layout, its figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..o_voxel.core.progress import Progress, in_background, scaled
from ..o_voxel.material import TexturedMesh
from ..o_voxel.mesh.info import mesh_info
from ..o_voxel.render import Camera, Scene, mesh_scene, render_turntable, textured_scene
from ..o_voxel.render.uv_atlas import atlas_lines, draw_uv_atlas
from ..o_voxel.values import Mesh, VoxelField
from ..o_voxel.voxels.sample import vertex_materials
from . import host
from .sockets import ANY_MESH, COMFY_CAMERA, TEXTURED_MESH, VOXELS, expect, painted, surface, textured
from .textures import MATERIAL, SOURCE
from .widgets import ASSET_GROUP, MESH_GROUP

SCENE_SECONDS, ATLAS_SECONDS = 1.0, 2.0  # estimates, for the bar
CAMERA = (
    "Optional camera_info, e.g. of Load 3D: its direction, field of view and projection replace yaw and pitch. The "
    "object is centred and fills the image, whatever the distance and zoom."
)


class RenderPreview:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = "Renders a mesh in a studio setup: one image, or a turntable as a batch of images."
    FUNCTION = "render"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("An image a frame, RGB.",)
    SEARCH_ALIASES = ("render", "turntable", "rotate", "screenshot", "mesh to image", "thumbnail", "orbit")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        angle = {"step": 1.0}
        mesh = "Any mesh. A textured one, as from Bake Textures or Load Mesh, is drawn with its textures."
        materials = "Materials of the same object. Without them: clay. A mesh with textures or colours keeps its own."
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": mesh}),
                "frames": ("INT", {"default": 1, "min": 1, "max": 360, "tooltip": "Images around the object."}),
                "size": ("INT", {"default": 512, "min": 64, "max": 2048, "step": 64, "tooltip": "Pixels a side."}),
                "yaw_deg": (
                    "FLOAT",
                    {"default": 30.0, "min": -180.0, "max": 180.0, **angle, "tooltip": "Azimuth in degrees."},
                ),
                "pitch_deg": (
                    "FLOAT",
                    {"default": 20.0, "min": -90.0, "max": 90.0, **angle, "tooltip": "Elevation in degrees."},
                ),
            },
            "optional": {
                "voxels": (VOXELS, {"tooltip": materials}),
                "camera": (COMFY_CAMERA, {"tooltip": CAMERA}),
            },
        }

    def render(
        self,
        mesh: Mesh | TexturedMesh,
        frames: int,
        size: int,
        yaw_deg: float,
        pitch_deg: float,
        voxels: VoxelField | None = None,
        camera: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor]:
        report = host.progress()
        scene = _scene(mesh, voxels, scaled(report, 0.0, 0.2))
        images = render_turntable(
            scene,
            frames,
            Camera(yaw_deg=yaw_deg, pitch_deg=pitch_deg) if camera is None else comfy_camera(camera),
            (size, size),
            progress=lambda done, total: report(0.2 + 0.8 * done / total),
        )
        return (host.at_rest(images),)


def _scene(mesh: Mesh | TexturedMesh, voxels: VoxelField | None, progress: Progress) -> Scene:
    """Builds the scene of a mesh with its own materials, else those of the voxels, else clay."""
    if isinstance(mesh, TexturedMesh) and (voxels is None or painted(mesh)):
        whole = host.at_work(mesh)
        return in_background(lambda _: textured_scene(whole), progress, SCENE_SECONDS)
    shape, material = host.at_work(surface(mesh)), None
    if voxels is not None:
        field = host.at_work(expect(voxels, VOXELS))
        material = vertex_materials(shape, field, progress=scaled(progress, 0.0, 0.5))
    return in_background(lambda _: mesh_scene(shape, material=material), scaled(progress, 0.5, 0.5), SCENE_SECONDS)


def comfy_camera(info: Mapping[str, Any]) -> Camera:
    """Returns the camera of ComfyUI's LOAD3D_CAMERA: position and target {x, y, z}, y up, fov in degrees (vertical).

    Distances are not taken over: Load 3D shows models scaled to 5 units, other nodes in their own units.
    Raises TypeError or ValueError naming the socket.
    """
    try:
        offset = tuple(float(info["position"][axis]) - float(info["target"][axis]) for axis in "xyz")
        orthographic = info.get("cameraType") == "orthographic"
        fov_deg = float(info.get("fov") or Camera.fov_deg)
    except (KeyError, TypeError, AttributeError) as error:
        raise TypeError(f"camera: expected ComfyUI's camera_info with position and target, got {info!r}") from error
    return Camera.from_y_up(offset, fov_deg, orthographic)


class UVAtlas:
    CATEGORY = ASSET_GROUP
    DESCRIPTION = (
        "Draws the UV layout. Each chart has a soft colour. Orange: fewer texels than the mean; blue: more; red: "
        "triangles overlap; hatched: mirrored; the darker margin is outside the texture."
    )
    FUNCTION = "draw"
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("image", "figures")
    OUTPUT_TOOLTIPS = ("The layout, v up, as the texture lies.", "Charts, overlaps, fill and stretch as text.")
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("uv", "uv map", "uv layout", "uv preview", "show uv", "texture stretch", "overlaps")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        size = "Pixels a side. Overlaps are counted in these pixels; choose the texture's size for its texels."
        return {
            "required": {
                "textured_mesh": (ANY_MESH, {"tooltip": SOURCE + " It needs UV coordinates."}),
                "size": ("INT", {"default": 1024, "min": 64, "max": 4096, "step": 64, "tooltip": size}),
                "material": MATERIAL,
            }
        }

    def draw(self, textured_mesh: TexturedMesh, size: int, material: int) -> dict[str, Any]:
        mesh = host.at_work(textured(textured_mesh))
        image, report = in_background(lambda _: draw_uv_atlas(mesh, size, material), host.progress(), ATLAS_SECONDS)
        lines = atlas_lines(report)
        host.show_text(lines)
        return {"ui": {"text": lines}, "result": (host.at_rest(image[None]), "\n".join(lines))}


class MeshInfo:
    CATEGORY = MESH_GROUP
    DESCRIPTION = (
        "Shows triangles, parts, open edges, size in metres, area, volume, textures and names of a mesh, and passes it "
        "on."
    )
    FUNCTION = "measure"
    RETURN_TYPES = (TEXTURED_MESH, "INT", "INT", "BOOLEAN", "STRING")
    RETURN_NAMES = ("mesh", "triangles", "parts", "watertight", "text")
    OUTPUT_TOOLTIPS = (
        "The same mesh, unchanged.",
        "Number of triangles.",
        "Sets of triangles connected by edges.",
        "True if every edge has two triangles, as 3D printing needs.",
        "All figures, a line a topic.",
    )
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("mesh statistics", "polygon count", "triangle count", "watertight", "volume", "bounding box")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"mesh": (ANY_MESH, {"tooltip": "Any mesh, with or without textures."})}}

    def measure(self, mesh: Mesh | TexturedMesh) -> dict[str, Any]:
        surface(mesh)  # refuses other values
        given = host.at_work(mesh)
        info = in_background(lambda _: mesh_info(given), host.progress(), ATLAS_SECONDS)
        lines = info.lines()
        host.show_text(lines)
        result = (textured(host.at_rest(mesh)), info.triangles, info.parts, info.watertight, "\n".join(lines))
        return {"ui": {"text": lines}, "result": result}

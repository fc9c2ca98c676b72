"""Node that renders meshes to IMAGE."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..o_voxel.core.progress import in_background, scaled
from ..o_voxel.render import Camera, mesh_scene, render_turntable
from ..o_voxel.values import Mesh, VoxelField
from ..o_voxel.voxels.sample import vertex_materials
from . import host
from .sockets import MESH, VOXELS, expect
from .widgets import CATEGORY


class RenderPreview:
    CATEGORY = CATEGORY
    DESCRIPTION = "Renders a mesh in a studio setup: one image, or a turntable as a batch of images."
    FUNCTION = "render"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        angle = {"step": 1.0}
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Decode Mesh or O-Voxel to Mesh."}),
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
            "optional": {"voxels": (VOXELS, {"tooltip": "Materials of the same object. Without them: clay."})},
        }

    def render(
        self, mesh: Mesh, frames: int, size: int, yaw_deg: float, pitch_deg: float, voxels: VoxelField | None = None
    ) -> tuple[Tensor]:
        mesh, report, material = host.at_work(expect(mesh, MESH)), host.progress(), None
        if voxels is not None:
            field = host.at_work(expect(voxels, VOXELS))
            material = vertex_materials(mesh, field, progress=scaled(report, 0.0, 0.1))
        scene = in_background(lambda _: mesh_scene(mesh, material=material), scaled(report, 0.1, 0.1), 1.0)
        images = render_turntable(
            scene,
            frames,
            Camera(yaw_deg=yaw_deg, pitch_deg=pitch_deg),
            (size, size),
            progress=lambda done, total: report(0.2 + 0.8 * done / total),
        )
        return (host.at_rest(images),)

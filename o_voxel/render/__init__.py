"""A rasterising PBR renderer for meshes and voxels with built-in studio lighting, on CPU and GPU."""

from .camera import Camera
from .draw import Rendering, Style
from .light import SoftBox, StudioLight
from .scene import Scene, mesh_scene, textured_scene, voxel_scene
from .turntable import contact_sheet, render_mesh, render_turntable, save_picture, save_png

__all__ = [
    "Camera",
    "Rendering",
    "Scene",
    "SoftBox",
    "StudioLight",
    "Style",
    "contact_sheet",
    "mesh_scene",
    "render_mesh",
    "render_turntable",
    "save_picture",
    "save_png",
    "textured_scene",
    "voxel_scene",
]

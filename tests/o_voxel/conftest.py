"""Textured meshes to write, in our frame (z up, v up); small meshes by name; the CPU backends."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh

from . import shapes as mesh_shapes


def noise(channels: int, size: int = 32, seed: int = 0, **how: object) -> Texture:
    generator = torch.Generator().manual_seed(seed)
    return Texture(torch.randint(0, 256, (size, size, channels), dtype=torch.uint8, generator=generator), **how)


def bumps(size: int = 32) -> Texture:
    """A normal map of waves, with unit vectors but for rounding."""
    angle = torch.linspace(0, 4 * math.pi, size)
    x, y = torch.meshgrid(0.4 * angle.sin(), 0.3 * angle.cos(), indexing="xy")
    vectors = torch.stack([x, y, (1 - x * x - y * y).sqrt()], 2)
    return Texture(((vectors + 1) * 127.5).round().to(torch.uint8))


@pytest.fixture(scope="session")
def materials() -> dict[str, Material]:
    """One of each kind that a file can hold."""
    color, occlusion, rough, metal, alpha = noise(3), *(noise(1, seed=seed) for seed in range(1, 5))
    packed = Material(base_color_texture=color, roughness_texture=rough, metallic_texture=metal)
    return {
        "plain": Material(base_color_factor=(0.2, 0.5, 1.0), metallic_factor=0.25, roughness_factor=0.75),
        "color": Material(base_color_texture=color, metallic_factor=0.0),
        "packed": packed,
        "all": Material(
            **{name: getattr(packed, name) for name in ("base_color_texture", "roughness_texture", "metallic_texture")},
            occlusion_texture=occlusion,
            normal_texture=bumps(),
            normal_scale=0.5,
            emissive_texture=noise(3, seed=7),
            emissive_factor=(0.5, 1.2, 0.0),
            double_sided=True,
        ),
        "bumps": Material(normal_texture=bumps()),
        "mask": Material(base_color_texture=color, alpha_texture=alpha, alpha_mode="MASK", alpha_cutoff=0.3),
        "blend": Material(base_color_texture=color, alpha_texture=alpha, alpha_mode="BLEND", alpha_factor=0.5),
        "glow": Material(emissive_factor=(2.0, 1.0, 0.5)),
        "read": Material(base_color_texture=noise(3, wrap=("clamp", "mirror"), filter="nearest")),
    }


@pytest.fixture(scope="session")
def ball() -> Callable[..., TexturedMesh]:
    """ball(materials, rows) is a sphere of radius 0.4 around (0.1, 0, 0), welded, its seam in the texture only."""

    def make(materials: tuple[Material, ...], rows: int = 8, **more: object) -> TexturedMesh:
        latitude = np.linspace(-math.pi / 2, math.pi / 2, rows + 1)
        around = np.arange(2 * rows + 1)
        uv = np.stack(np.meshgrid(around / (2 * rows), np.arange(rows + 1) / rows), 2).reshape(-1, 2)
        longitude = 2 * math.pi * around / (2 * rows)
        points = np.stack(
            [
                np.outer(np.cos(latitude), np.cos(longitude)),
                np.outer(np.cos(latitude), np.sin(longitude)),
                np.outer(np.sin(latitude), np.ones_like(longitude)),
            ],
            2,
        ).reshape(-1, 3)
        places, vertex = np.unique(points.round(9) + 0.0, axis=0, return_inverse=True)
        first = (np.arange(rows)[:, None] * (2 * rows + 1) + np.arange(2 * rows)).reshape(-1)
        right, up = first + 1, first + 2 * rows + 1
        corners = np.stack([first, right, up + 1, first, up + 1, up], 1).reshape(-1, 3)
        faces = vertex.reshape(-1)[corners]
        kept = [len(set(face)) == 3 for face in faces.tolist()]
        mesh = Mesh(torch.tensor(places * 0.4 + [0.1, 0, 0], dtype=torch.float32), torch.from_numpy(faces[kept]))
        uv, uv_faces = torch.tensor(uv, dtype=torch.float32), torch.from_numpy(corners[kept])
        return TexturedMesh(mesh, materials, uv=uv, uv_faces=uv_faces, **more)

    return make


@pytest.fixture(scope="session")
def shapes():
    """The makers and checks of `shapes.py` by name."""
    return mesh_shapes


@pytest.fixture(params=["numba", "reference"])
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba")
    return request.param

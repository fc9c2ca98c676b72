"""Textured meshes to files: the images, and the whole.

Targets on 16 cores: three maps of 4096 x 4096 as PNG in 0.45 s, of 2048 x 2048 in 0.1 s.
"""

import argparse
import io
import os

import numpy as np
import torch
from bench import Table
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import encode_glb
from comfyui_trellis2.o_voxel.files.meshes.options import SaveOptions
from comfyui_trellis2.o_voxel.files.meshes.png import encode_png
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh
from PIL import Image

CHANNELS = (4, 3, 3)


def baked(size: int, channels: int, seed: int = 0) -> np.ndarray:
    """[size, size, channels] uint8 like an atlas: smooth detail at three scales, cut into charts that do not fit."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((1, channels, size, size), 128.0)
    for detail, strength in ((8, 80), (64, 40), (size // 4, 12)):
        coarse = torch.randn(1, channels, detail, detail, generator=generator)
        image += strength * torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    charts = image[0].reshape(channels, 16, size // 16, 16, size // 16).permute(1, 3, 2, 4, 0).flatten(0, 1)
    charts = charts[torch.randperm(256, generator=generator)].unflatten(0, (16, 16)).permute(0, 2, 1, 3, 4)
    return charts.reshape(size, size, channels).clamp(0, 255).to(torch.uint8).numpy()


def pillow(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def encode_all(maps: list[np.ndarray], threads: int) -> list[bytes]:
    return [encode_png(image, threads=threads) for image in maps]


def textured(side: int, size: int) -> TexturedMesh:
    """A wavy square of 2 x side x side faces with base colour, packed and normal maps."""
    axis = torch.linspace(0, 1, side + 1)
    uv = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), 2).reshape(-1, 2)
    height = 0.05 * torch.sin(20 * uv[:, :1]) * torch.cos(17 * uv[:, 1:])
    first = (torch.arange(side)[:, None] * (side + 1) + torch.arange(side)).flatten()
    right, up = first + 1, first + side + 1
    faces = torch.stack([first, right, up + 1, first, up + 1, up], 1).reshape(-1, 3)
    base, packed, normal = (torch.from_numpy(baked(size, 3, seed)) for seed in range(3))
    surface = Material(
        base_color_texture=Texture(base),
        roughness_texture=Texture(packed[..., 1:2].contiguous()),
        metallic_texture=Texture(packed[..., 2:].contiguous()),
        normal_texture=Texture(normal),
    )
    return TexturedMesh(Mesh(torch.cat([uv - 0.5, height], 1), faces), (surface,), uv=uv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, 2, os.cpu_count() or 1}))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=("png", "glb"))
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("export", options.save)
    for size in options.sizes if options.only != "glb" else ():
        maps = [baked(size, channels, channels) for channels in CHANNELS]
        content = [encode_png(image) for image in maps]
        share = sum(map(len, content)) / sum(len(pillow(image)) for image in maps)
        note = f"{sum(map(len, content)) / 1e6:.1f} MB, {share:.3f} of Pillow's"
        for threads in options.threads:
            case = f"png 3 x {size}, {threads} threads"
            traffic = sum(image.nbytes for image in maps)
            table.add(case, lambda: encode_all(maps, threads), traffic=traffic, repeat=options.repeat, note=note)
    if options.only == "png":
        table.write()
        return
    mesh = textured(316, 2048)
    for name, chosen in {
        "png": SaveOptions(),
        "jpeg": SaveOptions(image_format="jpeg"),
        "webp": SaveOptions(image_format="webp"),
        "png, quantized": SaveOptions(quantize=True),
    }.items():
        note = f"{len(encode_glb(mesh, options=chosen).content) / 1e6:.1f} MB"
        table.add(f"glb 200k faces, 3 x 2048 {name}", lambda o=chosen: encode_glb(mesh, options=o), repeat=3, note=note)
    table.write()


if __name__ == "__main__":
    main()

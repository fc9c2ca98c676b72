"""Trilinear samples of a six-channel table: two textures of one size, read together."""

import torch
from bench import DEVICE, Table
from comfyui_trellis2.o_voxel.material import Material, Texture
from comfyui_trellis2.o_voxel.ops.texture_sample import PBR_SLOTS, pack_textures, texture_sample


def main() -> None:
    table = Table("texture_sample")
    for side, count in ((4096, 1 << 24),) if DEVICE.type == "cuda" else ((1024, 1 << 20),):
        image = torch.randint(0, 256, (side, side, 4), dtype=torch.uint8)
        material = Material(
            base_color_texture=Texture(image[..., :3].contiguous()), roughness_texture=Texture(image[..., 3:])
        )
        slots = {name: PBR_SLOTS[name] for name in ("base_color_texture", "roughness_texture")}
        (textures,) = pack_textures((material,), slots, DEVICE)
        rows = torch.zeros(count, dtype=torch.int64, device=DEVICE)
        # Neighbours in memory are neighbours in the texture, as in a bake.
        steps = torch.arange(count, device=DEVICE)
        uv = torch.stack([steps % side, steps // side], 1).float() / side
        for lod in (0.0, 1.5):
            level = torch.full((count,), lod, device=DEVICE)
            table.add(
                f"{side} {count} lod {lod}",
                lambda uv=uv, level=level: texture_sample(textures, rows, uv, level),
                traffic=count * (8 + 8 + 4 + 16 + 4.0 * 4 * (2 if lod else 1)),
            )


if __name__ == "__main__":
    main()

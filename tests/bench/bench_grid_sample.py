"""Sampling six channels on the standard shape's voxels, points beside the surface."""

import torch
from bench import DEVICE, Table, surface_voxels
from comfyui_trellis2.o_voxel.ops.grid_sample import grid_sample
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid


def main() -> None:
    table = Table("grid_sample")
    for resolution in (512, 1024) if DEVICE.type == "cuda" else (128,):
        voxels = surface_voxels(resolution)
        feats, index = torch.rand(len(voxels), 6, device=DEVICE), hash_grid(voxels)
        points = voxels + torch.rand(len(voxels), 3, device=DEVICE)
        for mode in ("trilinear", "nearest"):
            traffic = len(voxels) * (12 + 24 + 24.0 * (8 if mode == "trilinear" else 1))
            table.add(
                f"{resolution} {len(points)} {mode}",
                lambda: grid_sample(feats, index, points, mode=mode),
                traffic=traffic,
            )


if __name__ == "__main__":
    main()

"""Indexing the voxels of the standard shape, and looking up a neighbour of each."""

import torch
from bench import DEVICE, Table, surface_voxels
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid


def main() -> None:
    table = Table("hash_grid")
    for resolution in (512, 1024) if DEVICE.type == "cuda" else (128,):
        voxels = surface_voxels(resolution)
        beside = voxels + torch.tensor([0, 1, 1], dtype=torch.int32, device=DEVICE)
        for backend in ("auto", "reference"):
            index = hash_grid(voxels, backend=backend)
            name = f"{resolution} {len(voxels)} {backend}"
            table.add(
                f"{name} build",
                lambda: hash_grid(voxels, backend=backend),
                traffic=len(voxels) * 36.0,
            )
            table.add(f"{name} find", lambda: index.find(beside), traffic=len(voxels) * 32.0)


if __name__ == "__main__":
    main()

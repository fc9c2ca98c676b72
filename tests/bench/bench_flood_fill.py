"""The flood around and inside the standard shape's surface, and through a maze. The floor is the bits once in and
out; the number of sweeps is the way through."""

import argparse

import torch
from bench import DEVICE, Table, bumpy_sphere
from comfyui_trellis2.o_voxel.ops.flood_fill import flood_fill


def sphere_blocks(resolution: int) -> torch.Tensor:
    """Bits [R/4]^3 of the points half a step or more from the standard shape's surface."""
    axis = torch.arange(resolution, device=DEVICE) / resolution - 0.5
    slabs = []
    for start in range(0, resolution, 4):
        points = torch.stack(torch.meshgrid(axis[start : start + 4], axis, axis, indexing="ij"), -1)
        free = bumpy_sphere(points).abs() > 1 / resolution
        n = resolution // 4
        bits = free.reshape(4, n, 4, n, 4).permute(1, 3, 0, 2, 4).reshape(n, n, 64).long()
        slabs.append((bits << torch.arange(64, device=DEVICE)).sum(-1))
    return torch.stack(slabs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = DEVICE.type == "cuda"
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if cuda else [256])
    parser.add_argument("--backends", nargs="+", default=["triton", "reference"] if cuda else ["numba", "reference"])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("flood_fill", options.save)
    for resolution in options.resolutions:
        free = sphere_blocks(resolution)
        seeds = torch.zeros_like(free)
        seeds[0, 0, 0] = 1
        for backend in options.backends:

            def fill(free=free, seeds=seeds, backend=backend):
                return flood_fill(free, seeds, backend=backend)

            table.add(f"{resolution} {backend}", fill, traffic=free.numel() * 24, repeat=3)
    table.write()


if __name__ == "__main__":
    main()

"""Submanifold convolution at the decoders' levels, random weights in float16. Baseline: FlexGEMM on an H200."""

import argparse
import itertools

import torch
from bench import DEVICE, Table, surface_voxels
from pack.trellis2.ops.submanifold_conv import submanifold_conv, tile_neighbors
from pack.trellis2.sparse import CoordSet

CHANNELS = (64, 128, 256, 512, 1024)
# FlexGEMM's milliseconds, map cached, from the finest level up.
FLEXGEMM = {512: (0.625, 0.595, 0.491, 0.569, 0.479), 1024: (1.847, 1.353, 1.075, 1.179, 1.495)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if DEVICE.type == "cuda" else [64])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--sweep", action="store_true", help="try tile shapes instead")
    options = parser.parse_args()
    table = Table("submanifold_conv", options.save)
    for resolution in options.resolutions:
        voxels = surface_voxels(resolution)
        for level, channels in enumerate(CHANNELS):
            coords = CoordSet.from_items([voxels])
            run_level(table, f"{resolution} L{level}", coords, channels, resolution, level, options)
            voxels = torch.unique(voxels // 2, dim=0)
    table.write()


def run_level(table, name, coords, channels, resolution, level, options) -> None:
    """One level: the convolution with its map kept, and the map itself."""
    dtype = torch.float16 if DEVICE.type == "cuda" else torch.float32
    feats = torch.randn(len(coords), channels, device=DEVICE, dtype=dtype)
    weight = torch.randn(channels, 3, 3, 3, channels, device=DEVICE, dtype=dtype) / (27 * channels) ** 0.5
    bias = torch.randn(channels, device=DEVICE, dtype=dtype)
    neighbors = coords.neighbors()
    pairs = int((neighbors >= 0).sum())
    arranged = tile_neighbors(neighbors) if DEVICE.type == "cuda" else None
    flops, traffic = 2.0 * pairs * channels**2, 4.0 * len(coords) * channels + neighbors.nbytes
    known = FLEXGEMM.get(resolution, ())

    def convolve() -> torch.Tensor:
        return submanifold_conv(feats, neighbors, weight, bias, tiles=lambda: arranged, backend=options.backend)

    if options.sweep:
        sweep(table, name, convolve, channels, flops, traffic)
        return
    note = f"FlexGEMM {known[level]}" if known else ""
    table.add(f"{name} {len(coords)} x {channels}", convolve, flops=flops, traffic=traffic, note=note)

    def build() -> object:
        fresh = CoordSet(coords.rows, coords.lengths)
        return tile_neighbors(fresh.neighbors()) if arranged is not None else fresh.neighbors()

    table.add(f"{name} map", build, traffic=2.0 * neighbors.nbytes, repeat=5)


def sweep(table, name, convolve, channels, flops, traffic) -> None:
    """Every tile shape that compiles, for choosing CONFIGS."""
    from pack.trellis2.ops.submanifold_conv import kernel

    key = min(max(64, channels), 256)
    for width, depth, warps, stages in itertools.product((64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4, 5)):
        if width > channels or depth > channels or (width == 256 and warps == 4):
            continue
        kernel.CONFIGS[key] = (width, depth, warps, stages)
        try:
            table.add(f"{name} {width}/{depth}/{warps}w/{stages}s", convolve, flops=flops, traffic=traffic, repeat=5)
        except Exception as error:  # noqa: BLE001 a shape that does not compile is a result of the sweep
            print(name, width, depth, warps, stages, type(error).__name__)


if __name__ == "__main__":
    main()

"""Submanifold convolution at the decoders' levels, random weights in float16: the convolution on a kept map, the map,
the way up to the children and the gradients. Baseline: FlexGEMM on an H200."""

import argparse
import itertools
from dataclasses import replace
from math import prod

import torch
from bench import DEVICE, Table, surface_voxels
from comfyui_trellis2.trellis2.ops.submanifold_conv import child_conv, submanifold_conv, tile_neighbors
from comfyui_trellis2.trellis2.sparse import CoordSet

CHANNELS = (64, 128, 256, 512, 1024)
# FlexGEMM's milliseconds from the finest level up: map cached, and what building the map adds.
FLEXGEMM = {512: (0.625, 0.595, 0.491, 0.569, 0.479), 1024: (1.847, 1.353, 1.075, 1.179, 1.495)}
FLEXGEMM_MAP = {512: (0.450, 0.394, 0.334, 0.346, 0.182), 1024: (1.131, 0.347, 0.349, 0.214, 0.237)}
DTYPE = torch.float16 if DEVICE.type == "cuda" else torch.float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if DEVICE.type == "cuda" else [64])
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--sweep", action="store_true", help="try tile shapes instead")
    options = parser.parse_args()
    table = Table("submanifold_conv", options.save)
    for resolution in options.resolutions:
        coords, gains = CoordSet.from_items([surface_voxels(resolution)]), []
        for level, channels in enumerate(CHANNELS):
            name = f"{resolution} L{level}"
            gains += run_level(table, name, coords, channels, (resolution, level), options)
            if level + 1 < len(CHANNELS) and not options.sweep:
                run_children(table, f"{name} from L{level + 1}", coords.coarsen(), channels, options.backend)
            coords = coords.coarsen().coarse
        if gains:
            print(f"{resolution}: {prod(gains) ** (1 / len(gains)):.2f} times FlexGEMM's speed, geometric mean")
    table.write()


def run_level(table, name, coords, channels, place, options) -> list[float]:
    """One level: the convolution with its map kept, the map itself, and the gradients. Returns the gain."""
    resolution, level = place
    feats, weight, bias = random_layer(len(coords), channels, channels)
    neighbors = coords.neighbors()
    arranged = tile_neighbors(neighbors) if DEVICE.type == "cuda" else None
    flops = 2.0 * int((neighbors >= 0).sum()) * channels**2
    traffic = 2.0 * feats.nbytes + neighbors.nbytes

    def convolve() -> torch.Tensor:
        return submanifold_conv(feats, neighbors, weight, bias, tiles=lambda: arranged, backend=options.backend)

    if options.sweep:
        sweep(table, name, convolve, flops)
        return []
    known = FLEXGEMM.get(resolution)
    note = f"FlexGEMM {known[level]}" if known else ""
    median = table.add(f"{name} {len(coords)} x {channels}", convolve, flops=flops, traffic=traffic, note=note)

    def build() -> object:
        found = CoordSet(coords.rows, coords.lengths).neighbors()
        return found if arranged is None else tile_neighbors(found)

    note = f"FlexGEMM {FLEXGEMM_MAP[resolution][level]}" if known else ""
    table.add(f"{name} map", build, traffic=3.0 * neighbors.nbytes, repeat=5, note=note)
    for leaf in (feats, weight, bias):
        leaf.requires_grad_()
    out = convolve()
    towards = torch.randn_like(out)
    table.add(
        f"{name} gradients",
        lambda: torch.autograd.grad(out, (feats, weight, bias), towards, retain_graph=True),
        flops=2 * flops,
        repeat=3,
    )
    return [known[level] / median] if known else []


def run_children(table, name, split, channels, backend) -> None:
    """The convolution that an up block begins with: twice the channels, to the children that exist."""
    parents, (feats, weight, bias) = split.coarse, random_layer(len(split.coarse), 2 * channels, 8 * channels)
    neighbors = parents.neighbors()
    arranged = tile_neighbors(neighbors, split.parent, split.child) if DEVICE.type == "cuda" else None
    pairs = int((neighbors >= 0).sum(1)[split.parent].sum())

    def convolve() -> torch.Tensor:
        return child_conv(
            feats, neighbors, weight, bias, split.parent, split.child, tiles=lambda: arranged, backend=backend
        )

    table.add(f"{name} {len(split.fine)} x {channels}", convolve, flops=4.0 * pairs * channels**2)


def random_layer(n: int, c: int, d: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features [n, c], weight [d, 3, 3, 3, c] and bias [d]."""
    feats, weight, bias = (torch.randn(shape, device=DEVICE) for shape in ((n, c), (d, 3, 3, 3, c), (d,)))
    return feats.to(DTYPE), (weight / (27 * c) ** 0.5).to(DTYPE), bias.to(DTYPE)


def sweep(table, name, convolve, flops) -> None:
    """Tile shapes that compile, for choosing a Config."""
    from comfyui_trellis2.trellis2.ops.submanifold_conv import kernel

    chosen = kernel.choose_config
    for width, depth, warps, stages in itertools.product((64, 128, 256), (32, 64), (4, 8), (3, 5, 7)):
        config = replace(kernel.HOPPER, block_d=width, block_c=depth, warps=warps, stages=stages)
        kernel.choose_config = lambda *_, config=config: config
        try:
            table.add(f"{name} {width}/{depth}/{warps}w/{stages}s", convolve, flops=flops, repeat=5)
        except (RuntimeError, kernel.triton.OutOfResources) as error:
            print(name, width, depth, warps, stages, type(error).__name__)
    kernel.choose_config = chosen


if __name__ == "__main__":
    main()

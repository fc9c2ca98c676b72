"""Triangulation of 400 loops of each size, on the CPU, by each backend."""

import argparse
import math

import torch
from bench import Table
from comfyui_trellis2.o_voxel.ops.triangulate_loops import BACKENDS, triangulate_loops

CPU = torch.device("cpu")


def rings(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(points, rim, start) of `count` uneven rings of `size` points."""
    generator = torch.Generator().manual_seed(0)
    turn = 2 * math.pi * torch.arange(size, dtype=torch.float64).repeat(count) / size
    points = torch.stack([turn.cos(), turn.sin(), 0 * turn], 1)
    points = points + 0.2 * torch.rand(len(turn), 3, generator=generator, dtype=torch.float64)
    rim = torch.nn.functional.normalize(torch.randn(len(turn), 3, generator=generator, dtype=torch.float64), dim=1)
    return points, rim, size * torch.arange(count + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("triangulate_loops", options.save)
    none = torch.zeros(0, 2, dtype=torch.int64)
    for size, count in ((8, 400), (32, 400), (128, 20)):
        loops = rings(count, size)
        for choice in BACKENDS:
            if choice.probe(CPU, torch.float64) is not None:
                continue

            def work(loops=loops, name=choice.name):
                return triangulate_loops(*loops, none, backend=name)

            operations = count * size**3 / 6 * 60
            table.add(f"{count} x {size} {choice.name}", work, flops=operations, repeat=options.repeat)
    table.write()


if __name__ == "__main__":
    main()

"""Packing of star-shaped charts of mixed sizes, and how full the texture gets."""

import argparse

import numpy as np
from bench import Table
from comfyui_trellis2.o_voxel.ops.pack_charts import Outlines, pack


def stars(count: int, seed: int = 0) -> Outlines:
    """`count` star-shaped outlines of 24 lines, of very different sizes."""
    random = np.random.default_rng(seed)
    angle = np.arange(24) * (2 * np.pi / 24)
    radius = random.uniform(0.7, 1.0, (count, 24)) * random.lognormal(0.0, 0.7, (count, 1))
    start = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=2)
    end = np.roll(start, -1, axis=1)
    area = (start[..., 0] * end[..., 1] - end[..., 0] * start[..., 1]).sum(axis=1) / 2
    return Outlines(start.reshape(-1, 2), end.reshape(-1, 2), np.arange(count + 1) * 24, area)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--charts", type=int, nargs="+", default=[40, 200, 1_000, 4_000])
    parser.add_argument("--resolution", type=int, default=2048)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("comfyui_trellis2", options.save)
    for charts in options.charts:
        outlines = stars(charts)
        fill = pack(outlines, options.resolution, 2).scale ** 2 * outlines.area.sum() / options.resolution**2

        def work(outlines=outlines):
            return pack(outlines, options.resolution, 2)

        # The texture's cells written once.
        table.add(f"{charts:,} charts", work, traffic=options.resolution**2, repeat=3, note=f"fill {fill:.3f}")
    table.write()


if __name__ == "__main__":
    main()

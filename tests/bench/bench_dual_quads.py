"""Dual grid to mesh, whole and tiled, with the memory each takes. Baseline: 3.39 ms at 1024 on an H200."""

import argparse

from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if DEVICE.type == "cuda" else [128])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("dual_quads", options.save)
    for resolution in options.resolutions:
        grid = standard_dual_grid(resolution)
        faces = len(dual_grid_to_mesh(grid).faces)
        traffic = len(grid.coords) * (12 + 12 + 3 + 12) + faces * 12
        for tile in (None, 128, 16):

            def extract(tile=tile):
                return dual_grid_to_mesh(grid, tile)

            note = f"{faces:,} faces, peak {peak_mib(extract):.0f} MiB"
            table.add(f"{resolution} tile {tile}", extract, traffic=traffic, repeat=10, note=note)
    table.write()


if __name__ == "__main__":
    main()

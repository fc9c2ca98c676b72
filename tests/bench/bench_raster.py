"""Rasterise the standard shape's dual-grid mesh, and draw it shaded. Target on two CPU cores: 1 M faces in 1 s at 1024.

The floor counts each face's indices and corners read once and each pixel's result written once.
"""

import argparse
from functools import partial
from itertools import product

from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.ops.raster import rasterize
from comfyui_trellis2.o_voxel.render import Camera, StudioLight, Style, mesh_scene
from comfyui_trellis2.o_voxel.render.draw import draw
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def bench(table: Table, resolution: int, sizes: list[int], backends: list[str]) -> None:
    """Rows for the mesh of one resolution."""
    mesh = dual_grid_to_mesh(standard_dual_grid(resolution))
    scene = mesh_scene(mesh)
    for side, backend in product(sizes, backends):
        clip = Camera().view(scene.bounds, (side, side)).to_clip(mesh.vertices)
        work = partial(rasterize, clip, mesh.faces, (side, side), backend=backend)
        note = f"{len(mesh.faces):,} faces, peak {peak_mib(work):.0f} MiB"
        traffic = len(mesh.faces) * (12 + 48) + side * side * 20
        table.add(f"{resolution} at {side} {backend}", work, traffic=traffic, repeat=5, note=note)
    for name, side, style in (("draw", 1024, Style()), ("draw plain", 512, Style(supersample=1, occlusion=False))):
        work = partial(draw, scene, Camera(), (side, side), StudioLight(), style)
        table.add(f"{resolution} {name} at {side}", work, repeat=5, note=f"peak {peak_mib(work):.0f} MiB")
    table.add(f"{resolution} scene", partial(mesh_scene, mesh), repeat=5, note="normals and ground shadow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = DEVICE.type == "cuda"
    parser.add_argument("--resolutions", type=int, nargs="+", default=[256, 512, 1024] if gpu else [256])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--backends", nargs="+", default=["triton", "reference"] if gpu else ["numba", "reference"])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("raster", options.save)
    for resolution in options.resolutions:
        bench(table, resolution, options.sizes, options.backends)
    table.write()


if __name__ == "__main__":
    main()

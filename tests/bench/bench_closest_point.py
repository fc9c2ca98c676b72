"""The index over a mesh, and closest points near it. Baseline on an H200: CuMesh's BVH of 1.22 M faces in 610 ms, 4 M
queries in 19 ms. Queries are in random order, a voxel's width (one sigma) off the surface."""

import argparse

import torch
from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.ops.closest_point import build_index, closest_point
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def near_surface(mesh, count: int, spread: float) -> torch.Tensor:
    """[count, 3] points around the faces' middles."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    face = torch.randint(0, len(mesh.faces), (count,), device=DEVICE, generator=generator)
    noise = torch.randn(count, 3, device=DEVICE, generator=generator)
    return mesh.vertices[mesh.faces[face].long()].mean(1) + noise * spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if DEVICE.type == "cuda" else [96])
    parser.add_argument("--queries", type=int, default=4_000_000 if DEVICE.type == "cuda" else 20_000)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("closest_point", options.save)
    for resolution in options.resolutions:
        mesh = dual_grid_to_mesh(standard_dual_grid(resolution))
        faces, voxel = len(mesh.faces), 1 / resolution

        def build(mesh=mesh):
            return build_index(mesh)

        # Positions in; corners, the two face tables, boxes and codes out.
        traffic = len(mesh.vertices) * 12 + faces * (12 + 36 + 8 + 12)
        note = f"{faces:,} faces, {peak_mib(build):.0f} MiB"
        table.add(f"{resolution} build", build, traffic=traffic, repeat=10, note=note)
        index = build_index(mesh)
        for case, spread, reach in (("near", voxel, None), ("on", 0.01 * voxel, None), ("far", 50 * voxel, 2 * voxel)):
            points = near_surface(mesh, options.queries, spread)

            def ask(index=index, points=points, reach=reach):
                return closest_point(index, points, reach)

            # A point in, an answer out, and of the tree at least the triangle that it is on.
            note = f"{options.queries:,} queries, {peak_mib(ask):.0f} MiB"
            table.add(f"{resolution} {case}", ask, traffic=options.queries * (12 + 24 + 36), repeat=5, note=note)
    table.write()


if __name__ == "__main__":
    main()

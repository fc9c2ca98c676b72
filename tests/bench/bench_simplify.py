"""Simplification to a face budget, with the memory that it takes. Baseline on an H200: CuMesh takes 1.22 M faces to
1,000,000 / 200,000 / 50,000 in 16 / 82 / 117 ms."""

import argparse

from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = DEVICE.type == "cuda"
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if cuda else [128])
    parser.add_argument("--targets", type=int, nargs="+", default=[1_000_000, 200_000, 50_000] if cuda else [7_000])
    parser.add_argument("--backends", nargs="+", default=["auto"] if cuda else ["library", "reference"])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("simplify", options.save)
    for resolution in options.resolutions:
        mesh = dual_grid_to_mesh(standard_dual_grid(resolution))
        for target in options.targets:
            for backend in options.backends:

                def reduce(mesh=mesh, target=target, backend=backend):
                    return simplify(mesh, target, backend=backend)

                faces, left = len(mesh.faces), len(reduce().faces)
                # The mesh in and out: what no algorithm can do without. A round alone reads 170 bytes an edge.
                traffic = len(mesh.vertices) * 12 + (faces + left) * 12 + left * 6
                note = f"{faces:,} to {left:,} faces, {peak_mib(reduce):.0f} MiB"
                table.add(f"{resolution} {target:,} {backend}", reduce, traffic=traffic, repeat=5, note=note)
    table.write()


if __name__ == "__main__":
    main()

"""Remeshing and the outer shell, with the memory that they take, in voxels of 1/resolution of the model's unit cube.
Baseline on an H200, 1.2 M faces at 512: CuMesh's narrow-band dual contouring 31 ms after 0.61 s for its index, ComfyUI
core's 3.9 s and 5.4 GiB."""

import argparse

from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.mesh.remesh.outer_shell import outer_shell
from comfyui_trellis2.o_voxel.mesh.remesh.remesh import remesh
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = DEVICE.type == "cuda"
    parser.add_argument("--input", type=int, default=None, help="resolution of the input's dual grid")
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if cuda else [128])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("remesh", options.save)
    for resolution in options.resolutions:
        mesh = dual_grid_to_mesh(standard_dual_grid(options.input or resolution))
        voxels = round(resolution * float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()))
        cases = {
            "remesh": lambda mesh=mesh, n=voxels: remesh(mesh, n),
            "remesh in place": lambda mesh=mesh, n=voxels: remesh(mesh, n, project=0.0),
            "outer_shell": lambda mesh=mesh, n=voxels: outer_shell(mesh, n),
            "outer_shell, gaps of 6": lambda mesh=mesh, n=voxels: outer_shell(mesh, n, close_gaps=6.0),
        }
        for name, work in cases.items():
            made = work()
            # The two meshes, in and out: what no algorithm can do without.
            traffic = sum(12 * (len(one.vertices) + len(one.faces)) for one in (mesh, made))
            note = f"{len(mesh.faces):,} to {len(made.faces):,} faces, peak {peak_mib(work):.0f} MiB"
            del made
            table.add(f"{resolution} {name}", work, traffic=traffic, repeat=5, note=note)
    table.write()


if __name__ == "__main__":
    main()

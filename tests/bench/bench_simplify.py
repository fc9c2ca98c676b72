"""Simplification to a face budget, with the memory that it takes. Baseline on an H200: CuMesh takes 1.22 M faces to
1,000,000 / 200,000 / 50,000 in 16 / 82 / 117 ms."""

import argparse
from pathlib import Path

from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.mesh.repair.clean import clean
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.values import Mesh, to_device
from comfyui_trellis2.o_voxel.voxels.from_mesh import fitted, voxelize
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from surfaces import SHAPES, dual_grid_of

HOUSE = Path(__file__).resolve().parents[2] / "assets" / "meshes" / "house.glb"


def surface(name: str, resolution: int) -> Mesh:
    """The standard shape; "thin", sheets and hairs; "house", a model of many parts by its voxels, which cleaning cuts
    along edges of many faces; or a mesh file, such as a surface that `generate --model mini` wrote."""
    if name == "standard":
        return dual_grid_to_mesh(standard_dual_grid(resolution))
    if name in SHAPES:
        return clean(dual_grid_to_mesh(dual_grid_of(SHAPES[name], resolution, DEVICE)))[0]
    loaded = load_textured_mesh(HOUSE if name == "house" else name)
    if name != "house":
        return clean(to_device(loaded.mesh, DEVICE))[0]
    voxels = voxelize(to_device(fitted(loaded), DEVICE), Grid.cube(resolution), materials=False)
    return clean(dual_grid_to_mesh(voxels.dual_grid))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = DEVICE.type == "cuda"
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if cuda else [128])
    parser.add_argument("--surfaces", nargs="+", default=["standard", "thin", "house"], help="or mesh files")
    parser.add_argument("--targets", type=int, nargs="+", default=[1_000_000, 200_000, 50_000] if cuda else [7_000])
    parser.add_argument("--backends", nargs="+", default=["auto"] if cuda else ["numba", "library"])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("simplify", options.save)
    for name in options.surfaces:
        for resolution in options.resolutions if name in ("standard", "house", *SHAPES) else (0,):
            mesh = surface(name, resolution)
            for target in options.targets:
                for backend in options.backends:
                    bench(table, f"{Path(name).stem} {resolution}", mesh, target, backend)
    table.write()


def bench(table: Table, name: str, mesh: Mesh, target: int, backend: str) -> None:
    """Adds a row."""

    def reduce() -> Mesh:
        return simplify(mesh, target, backend=backend)

    faces, left = len(mesh.faces), len(reduce().faces)
    # The mesh in and out: what no algorithm can do without. A round alone reads 170 bytes an edge.
    traffic = len(mesh.vertices) * 12 + (faces + left) * 12 + left * 6
    note = f"{faces:,} to {left:,} faces, {peak_mib(reduce):.0f} MiB"
    table.add(f"{name} {target:,} {backend}", reduce, traffic=traffic, repeat=5, note=note)


if __name__ == "__main__":
    main()

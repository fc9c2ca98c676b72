"""Mesh to dual grid: 315 k faces, whose 1024 grid has 3.9 M voxels, and a box of 12 faces.

Targets: 750, 2,100 and 8,100 ms at 256, 512 and 1024 on two CPU cores (the original on one); on an H200 150 ms at
1024 and 700 ms at 2048. The floor is the mesh read once and the voxels written once. The backend is checked first,
against plain torch on the CPU.
"""

import argparse
import math

import torch
from bench import DEVICE, Table, peak_mib
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid


def sphere(rings: int) -> Mesh:
    """A bumpy sphere of 4 rings (rings - 1) triangles, those at the poles without area."""
    down = torch.linspace(0, math.pi, rings, dtype=torch.float64)
    around = torch.arange(2 * rings, dtype=torch.float64) * math.pi / rings
    down, around = torch.meshgrid(down, around, indexing="ij")
    radius = 0.43 * (1 + 0.06 * torch.sin(6 * around) * torch.sin(5 * down))
    points = torch.stack((down.sin() * around.cos(), down.sin() * around.sin(), down.cos()), -1) * radius[..., None]
    corner = torch.arange(rings * 2 * rings).reshape(rings, -1)
    a, b, c, d = corner[:-1], corner[1:], corner[1:].roll(-1, 1), corner[:-1].roll(-1, 1)
    faces = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)), -2).reshape(-1, 3)
    return Mesh(points.reshape(-1, 3).float().to(DEVICE), faces.to(DEVICE))


def box() -> Mesh:
    """A box askew, so that all six sides have depth along every axis."""
    turn, _ = torch.linalg.qr(torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 2.0], [3.0, 1.0, 0.2]]))
    corners = torch.cartesian_prod(*(torch.tensor([-s, s]) for s in (0.4, 0.3, 0.2))) @ turn
    sides = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    faces = torch.tensor([[[a, b, c], [a, c, d]] for a, b, c, d in sides]).reshape(-1, 3)
    return Mesh(corners.to(DEVICE), faces.to(DEVICE))


def check(backend: str) -> None:
    """Stop unless the backend gives the voxels and flags of plain torch on the CPU, and its vertices."""
    mesh, grid = sphere(40), Grid.fit((-0.5, -0.4, -0.45), (0.5, 0.55, 0.45), (100, 63, 129))
    made = mesh_to_dual_grid(mesh, grid, backend=backend)
    plain = mesh_to_dual_grid(Mesh(mesh.vertices.cpu(), mesh.faces.cpu()), grid, backend="reference")
    if not torch.equal(made.coords.cpu(), plain.coords) or not torch.equal(made.intersected.cpu(), plain.intersected):
        raise SystemExit("red: voxels or flags differ from the reference's")
    worst = float((made.dual.cpu() - plain.dual).abs().max())
    if worst > 1e-6:
        raise SystemExit(f"red: vertices differ from the reference's by {worst} voxels")
    print(f"checked: largest difference of a vertex from plain torch on the CPU {worst:.1e} voxels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [256, 512, 1024, 2048] if DEVICE.type == "cuda" else [256, 512, 1024]
    parser.add_argument("--resolutions", type=int, nargs="+", default=sizes)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    check(options.backend)
    table = Table("mesh_to_dual_grid", options.save)
    for name, mesh in (("sphere", sphere(281)), ("box", box())):
        for resolution in options.resolutions:

            def run(mesh=mesh, resolution=resolution):
                return mesh_to_dual_grid(mesh, Grid.cube(resolution), backend=options.backend)

            voxels = len(run().coords)
            traffic = len(mesh.vertices) * 12 + len(mesh.faces) * 24 + voxels * (12 + 12 + 3)
            note = f"{voxels:,} voxels, {len(mesh.faces):,} faces, peak {peak_mib(run):.0f} MiB"
            ms = table.add(f"{name} {resolution}", run, traffic=traffic, repeat=options.repeat, note=note)
            print(f"{'':<20}{voxels / ms / 1e3:.1f} M voxels/s")
    table.write()


if __name__ == "__main__":
    main()

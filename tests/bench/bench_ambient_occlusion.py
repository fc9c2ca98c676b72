"""Pictures of the standard shape from all around, and looking points on it up in them."""

import argparse

import torch
from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.ops.ambient_occlusion import ambient_occlusion, render_depth_maps, sphere_directions
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    gpu = DEVICE.type == "cuda"
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if gpu else [128])
    parser.add_argument("--rays", type=int, default=128 if gpu else 16)
    parser.add_argument("--points", type=int, default=3_000_000 if gpu else 100_000)
    options = parser.parse_args()
    table = Table("occlusion")
    for resolution in options.resolutions:
        mesh = dual_grid_to_mesh(standard_dual_grid(resolution))
        directions = sphere_directions(options.rays)

        def draw(mesh=mesh, directions=directions):
            return render_depth_maps(mesh, directions)

        traffic = options.rays * (len(mesh.faces) * 60 + 1024 * 1024 * 20)
        note = f"{options.rays} pictures, {len(mesh.faces):,} faces, {peak_mib(draw):.0f} MiB"
        table.add(f"{resolution} draw", draw, traffic=traffic, repeat=3, note=note)
        depth_maps = draw()
        # In the order of the faces, as the texels of a chart are.
        face = torch.linspace(0, len(mesh.faces) - 1, options.points, device=DEVICE).long()
        points = mesh.vertices[mesh.faces[face].long()].mean(1)
        normals = torch.nn.functional.normalize(points, dim=1)

        def look(depth_maps=depth_maps, points=points, normals=normals):
            return ambient_occlusion(depth_maps, points, normals)

        traffic = options.points * 28 + depth_maps.depth.numel() * 4
        note = f"{options.points:,} points, {peak_mib(look):.0f} MiB"
        table.add(f"{resolution} look up", look, traffic=traffic, repeat=5, note=note)


if __name__ == "__main__":
    main()

"""The mesh repairs, each and all, on a raw surface made dirty.

Targets: 50 ms for 4.9 M faces on an H200, 1 s for 1 M on two CPU cores with the kernels compiled.
"""

import argparse

import torch
from bench import DEVICE, Table, peak_mib, show_profile, standard_dual_grid
from comfyui_trellis2.o_voxel.mesh.connectivity.components import remove_small_components
from comfyui_trellis2.o_voxel.mesh.connectivity.manifold import split_non_manifold, split_surface
from comfyui_trellis2.o_voxel.mesh.connectivity.surface import Surface, join_faces
from comfyui_trellis2.o_voxel.mesh.normals import smooth_by_angle, tangents, vertex_normals
from comfyui_trellis2.o_voxel.mesh.repair.clean import CleanOptions, clean, remove_duplicate_faces, weld
from comfyui_trellis2.o_voxel.mesh.repair.fill_holes import fill_holes, hole_faces
from comfyui_trellis2.o_voxel.mesh.repair.orient import orient, turn
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def dirty_mesh(resolution: int, holes: int = 300, crumbs: int = 200) -> Mesh:
    """The standard shape's raw surface with small holes, turned and repeated faces, and crumbs around it."""
    mesh = dual_grid_to_mesh(standard_dual_grid(resolution))
    generator = torch.Generator().manual_seed(1)
    middle = mesh.vertices[mesh.faces.long()].mean(1)
    count = len(middle)
    torn = torch.zeros(count, dtype=torch.bool, device=DEVICE)
    for spot in torch.randint(0, count, (holes,), generator=generator).tolist():
        torn |= (middle - middle[spot]).norm(dim=1) < (0.8 + 2.5 * spot / count) / resolution
    faces = turn(mesh.faces, (torch.rand(count, generator=generator) < 0.001).to(DEVICE))[~torn]
    again = torch.randint(0, len(faces), (count // 2000,), generator=generator).to(DEVICE)
    solid = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype=torch.int32, device=DEVICE)
    corners = torch.cat([torch.zeros(1, 3), torch.eye(3)]) / resolution
    spots = (torch.rand(crumbs, 1, 3, generator=generator) - 0.5) * 0.95 + corners
    first = len(mesh.vertices) + 4 * torch.arange(crumbs, dtype=torch.int32, device=DEVICE)
    crumb_faces = (solid + first[:, None, None]).reshape(-1, 3)
    vertices = torch.cat([mesh.vertices, spots.reshape(-1, 3).to(DEVICE)])
    return Mesh(vertices, torch.cat([faces, faces[again], crumb_faces]))


def connected(mesh: Mesh) -> tuple[torch.Tensor, torch.Tensor, Surface, torch.Tensor]:
    """What `hole_faces` is given: the mesh split into surfaces, and how its faces join."""
    faces = mesh.faces.long()
    surface = join_faces(mesh.vertices, faces)
    faces, source, surface = split_surface(faces, len(mesh.vertices), surface)
    return mesh.vertices[source], faces, surface, surface.seam


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolutions", type=int, nargs="+", default=[512, 1024] if DEVICE.type == "cuda" else [256])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--only", nargs="+", help="names of steps")
    parser.add_argument("--profile", action="store_true", help="kernels, copies and waits of each step, on a GPU")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("clean", options.save)
    for resolution in options.resolutions:
        raw = dirty_mesh(resolution)
        perimeter = 30 / resolution
        whole, _ = clean(raw, CleanOptions(max_hole_perimeter=perimeter))
        split, _ = split_non_manifold(raw)
        normals, uv = vertex_normals(whole), whole.vertices[:, :2].contiguous()
        steps = {
            "clean": lambda m=raw, p=perimeter: clean(m, CleanOptions(max_hole_perimeter=p)),
            "weld": lambda m=raw: weld(m),
            "duplicates": lambda m=raw: remove_duplicate_faces(m),
            "split": lambda m=raw: split_non_manifold(m),
            "components": lambda m=split: remove_small_components(m),
            "orient": lambda m=split: orient(m),
            "orient by views": lambda m=split: orient(m, "views"),
            "fill": lambda m=split, p=perimeter: fill_holes(m, p),
            "fill, connected": lambda c=connected(split), p=perimeter: hole_faces(*c, p, True, "auto"),
            "normals": lambda m=whole: vertex_normals(m),
            "smooth by angle": lambda m=whole: smooth_by_angle(m),
            "tangents": lambda m=whole, n=normals, t=uv: tangents(m, n, t),
        }
        for name, work in steps.items():
            if options.only and name not in options.only:
                continue
            note = f"{len(raw.faces):,} faces, peak {peak_mib(work):.0f} MiB"
            table.add(f"{resolution} {name}", work, traffic=len(raw.faces) * 18, repeat=options.repeat, note=note)
            if options.profile and DEVICE.type == "cuda":
                show_profile(work)
    table.write()


if __name__ == "__main__":
    main()

"""Edges, components with a parity, and corner fans of the standard shape, by each backend that works here."""

import argparse

import torch
from bench import DEVICE, Table, standard_dual_grid
from comfyui_trellis2.o_voxel.mesh.connectivity.surface import join_faces
from comfyui_trellis2.o_voxel.ops.mesh_connectivity import BACKENDS, components, corner_groups, match_edges
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=1024 if DEVICE.type == "cuda" else 256)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("mesh_clean", options.save)
    mesh = dual_grid_to_mesh(standard_dual_grid(options.resolution))
    faces, count = mesh.faces.long(), len(mesh.vertices)
    surface = join_faces(mesh.vertices, faces)
    half = (surface.twin > torch.arange(len(surface.twin), device=DEVICE)).nonzero().squeeze(1)
    first, second = half // 3, surface.twin[half] // 3
    odd = surface.flip[first] ^ surface.flip[second]
    note = f"{len(faces):,} faces"
    for choice in BACKENDS:
        if choice.probe(DEVICE, torch.float32) is not None:
            continue
        steps = {
            "edges": (lambda b: match_edges(faces, count, backend=b), len(faces) * 48),
            "components": (lambda b: components(len(faces), first, second, odd, backend=b), len(half) * 17),
            "fans": (lambda b: corner_groups(surface.twin, surface.flip, backend=b), len(faces) * 49),
        }
        for name, (work, traffic) in steps.items():

            def run(work=work, name=choice.name):
                return work(name)

            table.add(f"{choice.name} {name}", run, traffic=traffic, repeat=options.repeat, note=note)
    table.write()


if __name__ == "__main__":
    main()

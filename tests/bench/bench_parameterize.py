"""Relaxation of a crumpled sheet, one group, four sweeps."""

import argparse

import torch
from bench import DEVICE, Table
from comfyui_trellis2.o_voxel.mesh.uv.parameterize import color_vertices
from comfyui_trellis2.o_voxel.ops.parameterize import relax


def crumpled(side: int):
    """(position, faces, rest, color) of a sheet of side x side quads, moved off its rest shape."""
    axis = torch.arange(side + 1, dtype=torch.float64, device=DEVICE) / side
    rest = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(-1, 2)
    row = torch.arange(side * (side + 1), device=DEVICE).view(side, side + 1)[:, :-1].flatten()
    faces = torch.cat(
        [torch.stack([row, row + side + 1, row + 1], 1), torch.stack([row + 1, row + side + 1, row + side + 2], 1)]
    )
    corners = rest[faces]
    noise = torch.randn(len(rest), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    lengths = (corners.roll(-1, 1) - corners).square().sum(2)
    return rest + 0.1 / side * noise, faces, lengths, color_vertices(faces, len(rest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("parameterize", options.save)
    for faces in options.faces:
        case = crumpled(max(1, round((faces / 2) ** 0.5)))

        def work(case=case):
            return relax(*case, torch.zeros_like(case[3]), 4)

        # A sweep reads each face from each of its corners: two positions, a shape and two rows, at least twice.
        table.add(f"{len(case[1]):,} faces", work, traffic=4 * 2 * 3 * len(case[1]) * 80, repeat=5)
    table.write()


if __name__ == "__main__":
    main()

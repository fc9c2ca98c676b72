"""Baking the standard shape's voxels into an atlas of one triangle a chart: whole, and step by step.

Baseline on an H200, colour and metallic-roughness alone: ComfyUI core 2.27 s (200 k faces, 2048) and 6.60 s (700 k,
4096). Targets there, with the normal map: 0.35 s (200 k, 2048) and 1.2 s (1 M, 4096); on two CPU cores 2 s at 1024 and
7 s at 2048.
"""

import argparse
import math
from dataclasses import replace

import torch
from bench import DEVICE, Table, peak_mib, standard_dual_grid
from comfyui_trellis2.o_voxel.asset import OCCLUDER
from comfyui_trellis2.o_voxel.bake.atlas import Layer
from comfyui_trellis2.o_voxel.bake.bake import bake
from comfyui_trellis2.o_voxel.bake.options import BakeOptions
from comfyui_trellis2.o_voxel.bake.snap import DenseSurface
from comfyui_trellis2.o_voxel.bake.sources import BakeSources
from comfyui_trellis2.o_voxel.bake.tangent_space import TangentFrames
from comfyui_trellis2.o_voxel.bake.texels import band_samples, band_starts
from comfyui_trellis2.o_voxel.material import UVMap
from comfyui_trellis2.o_voxel.mesh.normals import vertex_normals
from comfyui_trellis2.o_voxel.mesh.repair.orient import orient
from comfyui_trellis2.o_voxel.mesh.simplify import simplify
from comfyui_trellis2.o_voxel.ops.ambient_occlusion import ambient_occlusion, render_depth_maps, sphere_directions
from comfyui_trellis2.o_voxel.ops.grid_sample import grid_samples
from comfyui_trellis2.o_voxel.values import VoxelField
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh

GPU_CASES = ["1024,200000,2048,1", "1024,1000000,4096,1", "1024,1000000,4096,2"]
CPU_CASES = ["256,20000,1024,1", "512,200000,2048,1"]


def triangle_atlas(count: int) -> UVMap:
    """A right triangle a face, two in a cell of a square grid, a tenth of a cell apart."""
    cells = math.ceil(math.sqrt((count + 1) // 2))
    face = torch.arange(count, device=DEVICE)
    origin = torch.stack([face // 2 % cells, face // 2 // cells], 1)
    lower = torch.tensor([[0.03, 0.03], [0.9, 0.03], [0.03, 0.9]], device=DEVICE)
    corners = torch.where((face % 2 == 0)[:, None, None], lower, 1 - lower)
    uv = ((origin[:, None] + corners) / cells).reshape(-1, 2)
    return UVMap(uv, torch.arange(3 * count, device=DEVICE).view(-1, 3), face)


def subject(resolution: int, faces: int):
    """(mesh, atlas, dense, field): the standard shape, fewer faces, waves of colour."""
    grid = standard_dual_grid(resolution)
    dense = orient(dual_grid_to_mesh(grid))
    mesh = simplify(dense, faces)
    waves = 0.5 + 0.45 * torch.sin(grid.grid.centers(grid.coords).repeat(1, 2) * 10)
    waves[:, 5] = 1
    return mesh, triangle_atlas(len(mesh.faces)), dense, VoxelField(grid.coords, waves, grid.grid)


def steps(table: Table, case: str, given: tuple, options: BakeOptions, repeat: int) -> None:
    """A row for each step, over the whole atlas."""
    mesh, uv_map, dense, field = given
    normals = vertex_normals(mesh)
    sources = BakeSources.prepare((mesh, normals, uv_map), dense, field, options, "auto", lambda _: None)
    starts = band_starts(options.resolution, options.supersample, DEVICE)
    reach = options.snap_voxels * field.grid.voxel_size[0]

    def bands():
        return [band_samples(uv_map, options.resolution, options.supersample, s, backend="auto") for s in starts]

    samples = bands()
    places = [sample.at(sources.corners).split(3, 1) for sample in samples]
    snapped = [sources.dense.snap(p.contiguous(), n.contiguous(), reach, 0.2) for p, n in places]
    layer = Layer.empty(options.resolution, 6, DEVICE)
    for band in samples:
        layer.write(band.texels, layer.texels[: band.count], band.covered())
    covered = sum(len(band.slot) for band in samples)
    found = sum(int(place.found.sum()) for place in snapped)
    rows = {
        "tangent frames": lambda: TangentFrames.of(mesh, uv_map, normals),
        "dense index, normals": lambda: DenseSurface.of(dense, True),
        "raster": bands,
        "snap": lambda: [sources.dense.snap(p.contiguous(), n.contiguous(), reach, 0.2) for p, n in places],
        "sample": lambda: [
            grid_samples(field.attrs, sources.materials.table, field.grid.to_grid(place.points)) for place in snapped
        ],
        "encode normals": lambda: [
            sources.frames.encode(band.face, band.weights, place.normals)
            for band, place in zip(samples, snapped, strict=True)
        ],
        "means": lambda: [band.means(band.weights.repeat(1, 2), band.face >= 0) for band in samples],
        "fill": lambda: layer.filled(options.resolution, "auto"),
    }
    if DEVICE.type == "cuda":
        sky = render_depth_maps(dense, sphere_directions(64))
        rows["sky, 64 pictures"] = lambda: render_depth_maps(dense, sphere_directions(64))
        rows["look up 64"] = lambda: [ambient_occlusion(sky, place.points, place.normals) for place in snapped]
    for name, work in rows.items():
        note = f"{covered:,} samples, {found:,} snapped, {peak_mib(work):.0f} MiB"
        table.add(f"{case} {name}", work, repeat=repeat, note=note)


def check() -> None:
    """Raise where a bake is not the same twice, or backends differ by more than rounding."""
    given = subject(128, 4000)
    options = BakeOptions(resolution=256, supersample=2, occlusion=True, occlusion_rays=16)
    first, second, plain = (
        bake(*given, options, backend=backend).materials[0] for backend in ("auto", "auto", "reference")
    )
    for name in ("base_color", "metallic", "roughness", "normal", "occlusion"):
        one, two, other = (getattr(material, f"{name}_texture").image for material in (first, second, plain))
        # A shadow's edge turns over where rounding does.
        apart = ((one.int() - other.int()).abs() > 1).float().mean()
        if not torch.equal(one, two) or apart > (1e-3 if name == "occlusion" else 0):
            raise RuntimeError(f"{name}: expected the same texels twice and on other backends, {apart:.1%} are not")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases", nargs="+", default=GPU_CASES if DEVICE.type == "cuda" else CPU_CASES,
        help="voxels a side, faces, texels a side, samples a texel's side",
    )  # fmt: skip
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="no steps")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    check()
    table = Table("bake", arguments.save)
    for case in arguments.cases:
        voxels, faces, resolution, side = (int(part) for part in case.split(","))
        given = subject(voxels, faces)
        options = BakeOptions(resolution=resolution, supersample=side)
        # As `make_asset` does.
        lit = replace(options, occlusion=True, occluder=simplify(given[2], OCCLUDER * faces))
        for name, asked in (("whole", options), ("whole, occlusion", lit))[: 2 if DEVICE.type == "cuda" else 1]:

            def work(given=given, asked=asked):
                return bake(*given, asked)

            note = f"{len(given[2].faces):,} dense faces, {peak_mib(work):.0f} MiB"
            table.add(f"{case} {name}", work, repeat=arguments.repeat, note=note)
        if side == 1 and not arguments.whole:
            steps(table, case, given, options, arguments.repeat)
        del given, work
    table.write()


if __name__ == "__main__":
    main()

"""Voxel materials of a bumpy sphere with 2 k textures: milliseconds, voxels a second, and the floor.

    python tests/bench/bench_voxel_attributes.py [--device cuda] [--sizes 256 512 1024] [--faces 315000]

Prints CSV. The rows are checked first: two runs give the same bytes, and on a GPU a small grid gives the CPU's values.
The floor is bytes over the device's copy bandwidth, measured here: for each pair of a voxel and a triangle the key
once, the triangle's tables once and eight taps of each texel, for each voxel its result.
"""

import argparse
import importlib.util
import math
import statistics
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5


def load_pack():
    name, folder = "comfyui_trellis2", [str(ROOT)]
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=folder)
    sys.modules["comfyui_trellis2"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["comfyui_trellis2"])


if "comfyui_trellis2" not in sys.modules:
    load_pack()

from comfyui_trellis2.o_voxel.core.grid import Grid  # noqa: E402 the pack has no name until it is loaded
from comfyui_trellis2.o_voxel.material import Material, Texture, TexturedMesh  # noqa: E402 as above, it has no name yet
from comfyui_trellis2.o_voxel.ops.voxel_materials import (  # noqa: E402 as above, it has no name yet
    find_pairs,
    pack_scene,
)
from comfyui_trellis2.o_voxel.values import Mesh  # noqa: E402 the pack has no name until it is loaded
from comfyui_trellis2.o_voxel.voxels.materials import (  # noqa: E402 the pack has no name until it is loaded
    voxel_materials,
)


def textured_sphere(faces: int, texture: int, device: str) -> TexturedMesh:
    """A bumpy sphere of about `faces` triangles whose base colour, alpha, metal and roughness are textures."""
    rows = max(2, round(math.sqrt(faces / 4)))
    v, u = torch.meshgrid(torch.linspace(0.0, 1.0, rows + 1), torch.linspace(0.0, 1.0, 2 * rows + 1), indexing="ij")
    around, down = 2 * math.pi * u, math.pi * (0.001 + 0.998 * v)
    radius = 0.42 + 0.02 * torch.sin(9 * around) * torch.sin(11 * down) + 0.005 * torch.sin(40 * around)
    points = torch.stack((down.sin() * around.cos(), down.sin() * around.sin(), down.cos()), -1) * radius[..., None]
    corner = torch.arange((rows + 1) * (2 * rows + 1)).reshape(rows + 1, -1)
    a, b, c, d = corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]
    triangles = torch.stack((torch.stack((a, b, c), -1), torch.stack((a, c, d), -1)), -2).reshape(-1, 3)
    noise = torch.Generator().manual_seed(0)

    def image(channels: int) -> Texture:
        pixels = torch.randint(0, 256, (texture, texture, channels), generator=noise, dtype=torch.uint8)
        return Texture(pixels.to(device))

    material = Material(
        base_color_texture=image(3),
        metallic_texture=image(1),
        roughness_texture=image(1),
        alpha_texture=image(1),
        alpha_mode="BLEND",
    )
    uv = torch.stack((u, 1 - v), -1).reshape(-1, 2).to(device)
    return TexturedMesh(Mesh(points.reshape(-1, 3).to(device), triangles.to(device)), (material,), uv=uv)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def median_ms(work, device: str) -> float:
    times = []
    for _ in range(REPEATS):
        synchronize(device)
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def copy_gb_per_s(device: str) -> float:
    """Bytes read and written a second by a copy of 1 GiB (128 MiB on the CPU), in 1e9."""
    source = torch.ones((1 << 30) // (8 if device == "cpu" else 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.numel() / median_ms(lambda: target.copy_(source), device) / 1e6


def floor_ms(mesh: TexturedMesh, grid: Grid, voxels: int, bandwidth: float, backend: str) -> tuple[int, float]:
    """(pairs, milliseconds) of the least traffic."""
    scene = pack_scene(mesh, grid, emissive=False, normal=False, mip_offset=0.0)
    pairs = len(find_pairs(scene, backend=backend, report=lambda done: None))
    tables = 4 * (scene.plane.shape[1] + scene.uv.shape[1] + scene.lod.shape[1] + 2)
    texels = sum(8 * len(table.channels) for table in scene.tables)
    return pairs, (pairs * (8 + tables + texels) + voxels * 4 * (6 + 3)) / bandwidth / 1e6


def check(faces: int, device: str, backend: str) -> None:
    """Stop unless two runs agree in every byte, and the device agrees with the CPU's reference."""
    grid = Grid.cube(64)
    runs = [voxel_materials(textured_sphere(faces, 256, device), grid, backend=backend).field for _ in range(2)]
    plain = voxel_materials(textured_sphere(faces, 256, "cpu"), grid, backend="reference").field
    if not torch.equal(runs[0].attrs, runs[1].attrs):
        raise SystemExit("red: two runs differ")
    if not torch.equal(runs[0].coords.cpu(), plain.coords):
        raise SystemExit("red: the voxels are not the reference's")
    worst = float((runs[0].attrs.cpu() - plain.attrs).abs().max())
    if worst > 1e-5:
        raise SystemExit(f"red: values differ from the reference by {worst}")
    print(f"# checked: largest difference from the reference on the CPU {worst:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--faces", type=int, default=315_000)
    parser.add_argument("--texture", type=int, default=2048)
    parser.add_argument("--backend", default="auto")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device != "cpu" else f"cpu x {torch.get_num_threads()}"
    print(f"# torch {torch.__version__}, {name}, median of {REPEATS}")
    check(20_000, options.device, options.backend)
    bandwidth = copy_gb_per_s(options.device)
    mesh = textured_sphere(options.faces, options.texture, options.device)
    print("resolution,faces,voxels,pairs,ms,scan_ms,mvoxels_per_s,floor_ms,peak_mib")
    for size in options.sizes:
        grid = Grid.cube(size)
        voxels = len(voxel_materials(mesh, grid, backend=options.backend).reached)
        scene = pack_scene(mesh, grid, emissive=False, normal=False, mip_offset=0.0)
        pairs, floor = floor_ms(mesh, grid, voxels, bandwidth, options.backend)
        if options.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        ms = median_ms(lambda grid=grid: voxel_materials(mesh, grid, backend=options.backend), options.device)
        peak = torch.cuda.max_memory_allocated() / 2**20 if options.device != "cpu" else math.nan
        scan = median_ms(
            lambda scene=scene: find_pairs(scene, backend=options.backend, report=lambda done: None), options.device
        )
        row = (size, len(mesh.mesh.faces), voxels, pairs, ms, scan, voxels / ms / 1000, floor, peak)
        print(",".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))


if __name__ == "__main__":
    main()

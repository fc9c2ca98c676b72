"""From the raw surface to a textured GLB on disk: every step, time and memory.

Targets: 4.9 M faces of a 1024 grid on an H200: 200 k faces, 2048 texels in 1.5 s and 4 GiB, 1 M faces, 4096 in 5 s and
8 GiB. Two CPU cores, kernels compiled: 300 k faces to 50 k, 1024 in 8 s; 1 M to 200 k, 2048 in 30 s and 4 GB.
"""

import argparse
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from bench import DEVICE
from comfyui_trellis2.o_voxel.asset import PRESETS, AssetOptions, make_asset
from comfyui_trellis2.o_voxel.files.meshes.gltf.glb import write_glb
from comfyui_trellis2.o_voxel.values import VoxelField
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from surfaces import SHAPES, dual_grid_of

GPU_CASES = ((1024, 200_000, 2048), (1024, 1_000_000, 4096))
CPU_CASES = ((256, 50_000, 1024), (464, 200_000, 2048))


def colored(dual_grid) -> VoxelField:
    """A material for every voxel, smooth in space."""
    place = dual_grid.grid.to_world(dual_grid.coords.float() + 0.5)
    waves = torch.sin(place @ place.new_tensor([[31.0, 7, 11, 5, 9, 3], [5, 29, 13, 8, 4, 6], [9, 3, 37, 2, 7, 5]]))
    attrs = 0.5 + 0.45 * waves
    attrs[:, 5] = 1.0
    return VoxelField(dual_grid.coords, attrs, dual_grid.grid)


def timed_asset(mesh, field, options: AssetOptions, path: Path) -> dict[str, float]:
    """Seconds of every stage, the file's writing and the whole, and the peak of device memory in GiB."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    begun = last = time.perf_counter()
    seconds: dict[str, float] = {}

    def report(stage: str, fraction: float) -> None:
        nonlocal last
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        seconds[stage], last = seconds.get(stage, 0.0) + now - last, now

    asset = make_asset(mesh, field, options, progress=report)
    write_glb(path, asset)
    seconds["write"] = time.perf_counter() - last
    seconds["all"] = time.perf_counter() - begun
    seconds["faces"] = len(asset.mesh.faces)
    seconds["GiB"] = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else peak_memory()
    return seconds


def peak_memory() -> float:
    """GiB of main memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["bumpy", "thin"])
    parser.add_argument("--faces", type=int, nargs="+", help="of the cases, those with so many triangles")
    parser.add_argument("--repeat", type=int, default=6, help="runs of a case: the median of all but the first")
    parser.add_argument("--every", action="store_true", help="print every run")
    parser.add_argument("--pictures", type=Path, help="a folder to keep the GLB of each case")
    parser.add_argument("--scale", type=float, default=1.0, help="of the grid and the face budget, to try it out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = arguments.pictures or Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in arguments.shapes:
            for resolution, faces, texture in GPU_CASES if DEVICE.type == "cuda" else CPU_CASES:
                if arguments.faces and faces not in arguments.faces:
                    continue
                run_case(
                    name, int(resolution * arguments.scale), int(faces * arguments.scale**2), texture, target, arguments
                )


def run_case(name: str, resolution: int, faces: int, texture: int, target: Path, arguments: argparse.Namespace) -> None:
    dual_grid = dual_grid_of(SHAPES[name], resolution, DEVICE)
    mesh, field = dual_grid_to_mesh(dual_grid), colored(dual_grid)
    options = replace(PRESETS["game high"], faces=faces, texture_size=texture, occlusion=False)
    path, rows = target / f"{name}_{faces}.glb", []
    for turn in range(1, arguments.repeat + 1):
        rows.append(timed_asset(mesh, field, options, path))
        if arguments.every:
            tell(f"{name:<11}{len(mesh.faces):>9,} faces, {texture} run {turn}", path, rows[-1])
    if not arguments.every:
        later = rows[1:] or rows
        median = {key: statistics.median(row[key] for row in later) for key in later[0]}
        tell(f"{name:<11}{len(mesh.faces):>9,} faces, {texture}", path, median)


def tell(case: str, path: Path, row: dict[str, float]) -> None:
    """Prints a row, with the size of the file."""
    figures = "  ".join(f"{key} {value:.3f}" for key, value in row.items())
    print(f"{case}: {path.stat().st_size / 2**20:.1f} MiB  {figures}", flush=True)


if __name__ == "__main__":
    main()

"""UV unwrapping: seconds a step, charts, fill and stretch of the result, checked; xatlas on the same meshes.

Targets: on an H200 200 k faces in 0.5 s and 1 M in 1.5 s; on two CPU cores 50 k in 2.5 s and 200 k in 9 s.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import DEVICE
from comfyui_trellis2.o_voxel.mesh.uv.check import check_uv
from comfyui_trellis2.o_voxel.mesh.uv.unwrap import unwrap
from surfaces import SHAPES, noisy_surface

# The part done at which each step ends.
STEPS = {"build": 0.05, "charts": 0.15, "parameterize": 0.25, "merge": 0.7, "pack": 1.0}

XATLAS = """
import json, sys, time
import numpy as np, xatlas
data = np.load(sys.argv[1])
atlas, options = xatlas.Atlas(), xatlas.PackOptions()
options.resolution, options.padding = int(sys.argv[2]), 2
begun = time.time()
atlas.add_mesh(data["vertices"] * 1000, data["faces"].astype(np.uint32))
atlas.generate(xatlas.ChartOptions(), options)
seconds = time.time() - begun
rows, faces, uv = atlas[0]
# Padding is in texels of its own atlas, which is larger than was asked for.
uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
np.savez(sys.argv[3], uv=uv, faces=faces)
print(json.dumps({"seconds": seconds}))
"""


def sync() -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(mesh, resolution: int):
    """(UV map, seconds, seconds of each step) of one run."""
    spent, last = dict.fromkeys(STEPS, 0.0), [sync()]

    def progress(done: float) -> None:
        step = next(name for name, end in STEPS.items() if done <= end + 1e-9)
        now = sync()
        spent[step] += now - last[0]
        last[0] = now

    begun = sync()
    found = unwrap(mesh, resolution=resolution, progress=progress)
    seconds = sync() - begun
    spent["pack"] += sync() - last[0]
    return found, seconds, spent


def by_xatlas(mesh, resolution: int, seconds: float):
    """(uv, faces, seconds) by the xatlas of this Python, in another process, as it may crash; None where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder) / "mesh.npz", Path(folder) / "uv.npz"
        np.savez(source, vertices=mesh.vertices.cpu().numpy(), faces=mesh.faces.cpu().numpy())
        command = [sys.executable, "-c", XATLAS, str(source), str(resolution), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, check=True)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return None
        data = np.load(result)
        uv, faces = torch.from_numpy(data["uv"].astype(np.float32)), torch.from_numpy(data["faces"].astype(np.int64))
        return uv.to(mesh.vertices.device), faces.to(mesh.vertices.device), json.loads(done.stdout)["seconds"]


def line(name: str, mesh, seconds: float, uv, faces, resolution: int, note: str = "") -> None:
    r = check_uv(mesh, uv, faces, resolution)
    faults = (
        f"overlap {r.overlapping_texels} flip {r.flipped} flat {r.zero_area} out {r.outside} gutter {r.gutter_texels}"
    )
    stretch = f"stretch {r.stretch_median:.3f} p99 {r.stretch_p99:.3f}"
    print(
        f"{name:<26}{seconds:7.2f} s  charts {r.charts:6d}  fill {r.packed_area:.3f}  {stretch}  {faults}  {note}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cuda = DEVICE.type == "cuda"
    parser.add_argument(
        "--faces", type=int, nargs="+", default=[50_000, 200_000, 1_000_000] if cuda else [10_000, 50_000]
    )
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--resolution", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--xatlas", type=float, default=0.0, help="seconds that xatlas may take, where installed")
    options = parser.parse_args()
    warm = noisy_surface("boxes", 2_000, DEVICE)
    print(f"first run, {len(warm.faces)} faces, kernels compiled: {timed(warm, options.resolution)[1]:.1f} s")
    for faces in options.faces:
        for shape in options.shapes:
            mesh = noisy_surface(shape, faces, DEVICE)
            runs = sorted((timed(mesh, options.resolution) for _ in range(options.repeat)), key=lambda run: run[1])
            found, seconds, spent = runs[len(runs) // 2]
            same = all(torch.equal(found.uv, run[0].uv) for run in runs)
            steps = " ".join(f"{name} {part:.2f}" for name, part in spent.items())
            note = f"{steps}{'' if same else '  NOT THE SAME TWICE'}"
            line(f"{shape} {len(mesh.faces):,}", mesh, seconds, found.uv, found.faces, options.resolution, note)
            other = by_xatlas(mesh, options.resolution, options.xatlas) if options.xatlas else None
            if other is not None:
                line("  xatlas", mesh, other[2], other[0], other[1], options.resolution)


if __name__ == "__main__":
    main()

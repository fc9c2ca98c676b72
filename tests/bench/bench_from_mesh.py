"""What starts from a mesh, on held-out objects: colour of the true mesh textured, and distance of a coarse one refined.

`python tests/bench/bench_from_mesh.py mini --objects 10 --strengths 0.2 0.4 0.6` prints a line for each object and the
means. The colour difference (Delta E 76) is over what the picture sees, against generation from the picture alone. The
coarse mesh is the true surface at 256 voxels a side; the F-score is at 0.5 % of the cube, the truth is at 512.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location(
    "comfyui_trellis2", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
)
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])

from comfyui_trellis2.o_voxel.core.grid import Grid  # noqa: E402 after the package is loaded
from comfyui_trellis2.o_voxel.values import to_device  # noqa: E402 the same
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid  # noqa: E402 the same
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh  # noqa: E402 the same
from comfyui_trellis2.trellis2.from_mesh import encode_mesh  # noqa: E402 the same
from comfyui_trellis2.trellis2.pipeline import Pipeline  # noqa: E402 the same
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, default_device  # noqa: E402 the same
from comfyui_trellis2.trellis2.training.evaluation import evaluate  # noqa: E402 the same
from comfyui_trellis2.trellis2.training.evaluation.metrics import f_score  # noqa: E402 the same
from comfyui_trellis2.trellis2.values import Asset, EmptyOutputError  # noqa: E402 the same

COARSE = 256


def scores(pipeline: Pipeline, case: evaluate.Case, strengths: list[float], *, generated: bool) -> dict[str, float]:
    """The figures of one object."""
    device = pipeline.residency.device
    voxels = to_device(case.voxels, device)
    true = dual_grid_to_mesh(voxels.dual_grid)
    condition = pipeline.condition([[case.picture]], resolution=evaluate.RESOLUTION)
    shape = encode_mesh(pipeline, true, evaluate.RESOLUTION, fit=False)
    texture = pipeline.sample_texture(condition, shape, seed=0)
    (field,) = pipeline.decode_materials(shape, texture)
    structure = torch.unique(voxels.dual_grid.coords // 16, dim=0)
    painted = evaluate.Generated(structure, Asset(true, field))
    found = {"delta_e textured": evaluate.measure(painted, voxels, case.camera)["delta_e"]}
    if generated:
        try:
            made = evaluate.generate(pipeline, case.picture, None, 0)
            found["delta_e generated"] = evaluate.measure(made, voxels, case.camera)["delta_e"]
        except EmptyOutputError:
            found["delta_e generated"] = float("nan")
    coarse = dual_grid_to_mesh(mesh_to_dual_grid(true, Grid.cube(COARSE)))
    found["f coarse"] = f_score(coarse, true, evaluate.VAE_DISTANCE)
    start = encode_mesh(pipeline, coarse, evaluate.RESOLUTION, fit=False)
    for strength in strengths:
        refined = pipeline.refine_shape(condition, start, seed=0, strength=strength)
        found[f"f at {strength:g}"] = f_score(pipeline.decode(refined)[0].mesh, true, evaluate.VAE_DISTANCE)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint with a shape encoder")
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.0, 0.2, 0.4, 0.6])
    parser.add_argument("--no-generation", action="store_true", help="without generation from the picture alone")
    arguments = parser.parse_args()
    pipeline = Pipeline.load(arguments.model, KeepLoaded(default_device()))
    rows = []
    for make in evaluate.held_out("instances", arguments.objects):
        rows.append(scores(pipeline, make(), arguments.strengths, generated=not arguments.no_generation))
        print(make.name, *(f"{key} {value:.3f}" for key, value in rows[-1].items()), sep="  ", flush=True)
    table = torch.tensor([list(row.values()) for row in rows])
    print("mean", *(f"{key} {value:.3f}" for key, value in zip(rows[0], table.nanmean(0), strict=True)), sep="  ")


if __name__ == "__main__":
    main()

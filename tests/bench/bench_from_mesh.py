"""What starts from a mesh, on held-out objects: colour of the true mesh textured, and distance of a coarse one refined.

`python tests/bench/bench_from_mesh.py mini --objects 50 --strengths 0.2 0.4 0.6` prints a line for each object and the
means. Rows are added to --csv as they are done, and those in it are not made again. The colour difference (Delta E 76)
is over what the picture sees, against generation from the picture alone; textured: the object's own mesh is encoded;
again: the surface of its voxels, voxelised a second time. The coarse mesh is the true surface at 256 voxels a side; the
truth is at 512. distance: mean of both ways, in thousandths of the cube's side; F-score at 0.1 %. The last columns are
the seconds of each part: objects (voxels, picture), encode, texture, generate, refine, decode, figures.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import bench  # noqa: F401 loads the pack
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.ops.closest_point import build_index, closest_point
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.o_voxel.voxels.from_mesh import mesh_to_dual_grid
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from comfyui_trellis2.trellis2.from_mesh import encode_mesh
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, default_device
from comfyui_trellis2.trellis2.training.evaluation import evaluate
from comfyui_trellis2.trellis2.training.evaluation.metrics import delta_e, surface_points, visible_points
from comfyui_trellis2.trellis2.values import EmptyOutputError
from world_objects import Clock, Rows, WorldSample, world_samples

COARSE, CLOSE, POINTS = 256, 0.001, 20_000
PARTS = ("objects", "encode", "texture", "generate", "refine", "decode", "figures")


class Distances:
    """Distances of meshes to a true surface, whose samples and index are made once."""

    def __init__(self, true: Mesh) -> None:
        self.points, self.index = surface_points(true, POINTS, torch.Generator().manual_seed(0)), build_index(true)

    def of(self, mesh: Mesh) -> tuple[float, float]:
        """(mean distance of both ways in thousandths, F-score at CLOSE)."""
        own = surface_points(mesh, POINTS, torch.Generator().manual_seed(0))
        away = [
            closest_point(index, points).distance
            for index, points in ((self.index, own), (build_index(mesh), self.points))
        ]
        precision, recall = (float((one <= CLOSE).float().mean()) for one in away)
        score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return 500 * float(away[0].mean() + away[1].mean()), score


def scores(
    pipeline: Pipeline, sample: WorldSample, strengths: list[float], clock: Clock, *, generated: bool
) -> dict[str, float]:
    """The figures of one object; the seconds of each part go into `clock`."""
    with clock.timed("objects"):
        (picture,) = sample.pictures([sample.view])
        seen = visible_points(sample.surface, sample.view.camera)
        truth, found = evaluate.base_color(sample.voxels.field, seen), {}
        coarse = dual_grid_to_mesh(mesh_to_dual_grid(sample.surface, Grid.cube(COARSE)))
    with clock.timed("texture"):
        condition = pipeline.condition([[picture]], resolution=evaluate.RESOLUTION)
    for name, mesh in (("textured", sample.mesh.mesh), ("again", sample.surface)):
        with clock.timed("encode"):
            shape = encode_mesh(pipeline, mesh, evaluate.RESOLUTION, fit=False)
        with clock.timed("texture"):
            (field,) = pipeline.decode_materials(shape, pipeline.sample_texture(condition, shape, seed=0))
        with clock.timed("figures"):
            found[f"delta_e {name}"] = float(delta_e(evaluate.base_color(field, seen), truth).mean())
    if generated:
        with clock.timed("generate"):
            try:
                made = evaluate.generate(pipeline, picture, None, 0).asset
                found["delta_e generated"] = float(delta_e(evaluate.base_color(made.field, seen), truth).mean())
            except EmptyOutputError:
                found["delta_e generated"] = math.nan
    with clock.timed("figures"):
        distances = Distances(sample.surface)
        found["distance coarse"], found["f coarse"] = distances.of(coarse)
    with clock.timed("encode"):
        start = encode_mesh(pipeline, coarse, evaluate.RESOLUTION, fit=False)
    for strength in strengths:
        with clock.timed("refine"):
            refined = pipeline.refine_shape(condition, start, seed=0, strength=strength)
        with clock.timed("decode"):
            surface = pipeline.decode(refined)[0].mesh
        with clock.timed("figures"):
            found[f"distance at {strength:g}"], found[f"f at {strength:g}"] = distances.of(surface)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint with a shape encoder")
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--strengths", type=float, nargs="*", default=[0.0, 0.2, 0.4, 0.6])
    parser.add_argument("--no-generation", action="store_true", help="without generation from the picture alone")
    parser.add_argument("--csv", type=Path, default=Path("from_mesh.csv"))
    arguments = parser.parse_args()
    pipeline = Pipeline.load(arguments.model, KeepLoaded(default_device()))
    columns = ["delta_e textured", "delta_e again", *([] if arguments.no_generation else ["delta_e generated"])]
    tries = ["coarse", *(f"at {strength:g}" for strength in arguments.strengths)]
    columns += [f"{kind} {one}" for one in tries for kind in ("distance", "f")]
    rows, device = Rows(arguments.csv, ["name", *columns, "seconds", *PARTS]), pipeline.residency.device
    cases = evaluate.held_out("instances", arguments.objects)
    started = time.perf_counter()
    for sample in world_samples([case for case in cases if not rows.has(name=case.name)], device):
        clock = Clock(PARTS, device)
        clock.seconds["objects"] = time.perf_counter() - started
        found = scores(pipeline, sample, arguments.strengths, clock, generated=not arguments.no_generation)
        seconds, started = time.perf_counter() - started, time.perf_counter()
        rows.add({"name": sample.case.name, **found, "seconds": seconds, **clock.seconds})
        print(*(f"{key} {value}" for key, value in rows.rows[-1].items()), sep="  ", flush=True)
    table = torch.tensor([[float(row[key]) for key in columns] for row in rows.rows])
    print("mean", *(f"{key} {value:.3f}" for key, value in zip(columns, table.nanmean(0), strict=True)), sep="  ")


if __name__ == "__main__":
    main()

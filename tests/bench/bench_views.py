"""Several views against one, on held-out objects of the world: F-score at 2 %, colour error, seconds of sampling.

Every object is drawn from its front, left, back and right, with the pitch, field of view and light of its evaluation
picture, and made with the same noise in every mode. The colour error is the mean Delta E 76 over the surface that one
of the four cameras sees; that of what the front sees stands beside it.

A mode is one, average, cycle, or blend:TEMPERATURE. `--device cuda --objects 50 --modes one average cycle blend:0.2` is
the whole measurement. Rows are added to --csv as they are done, and those in it are not made again. Objects are made by
other processes meanwhile; voxels, pictures and figures are made on the device. The column seconds is of sampling and
decoding alone, figures of the figures, objects of the row's share of voxels and pictures. Lines on standard error say
when the model and the first object are there: on a bare machine that, and compiling the kernels, takes longest.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from bench import DEVICE
from comfyui_trellis2.trellis2.image.views import ViewBlend, ViewDirection
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.streaming import choose_residency
from comfyui_trellis2.trellis2.training.evaluation.evaluate import (
    RESOLUTION,
    STRUCTURE,
    SURFACE_DISTANCE,
    Generated,
    base_color,
    held_out,
)
from comfyui_trellis2.trellis2.training.evaluation.metrics import delta_e, f_score, structure_iou, visible_points
from comfyui_trellis2.trellis2.values import EmptyOutputError
from PIL import Image
from world_objects import Rows, WorldSample, world_samples

AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
MODES = ("one", "average", "cycle", "blend:0.05", "blend:0.2", "blend:1")
COLUMNS = ("structure_iou", "f_score", "delta_e", "delta_e_front", "seconds", "figures", "objects")
SEED = 0


def generate(pipeline: Pipeline, pictures: list[Image.Image], sample: WorldSample, mode: str) -> Generated:
    """The object in a mode, at 512."""
    view_mode, config = mode, pipeline.config
    if mode.startswith("blend"):
        pitch = sample.view.camera.pitch_deg
        view_mode = ViewBlend(tuple(ViewDirection(a, pitch) for a in AZIMUTHS), float(mode.partition(":")[2]))
    views, view_mode = (pictures[:1], "average") if mode == "one" else (pictures, view_mode)
    condition = pipeline.condition([views], resolution=RESOLUTION, view_mode=view_mode)
    structure = pipeline.sample_structure(
        condition, seed=SEED, resolution=STRUCTURE, sampler=config.sparse_structure_sampler
    )
    shape = pipeline.sample_shape(condition, structure, seed=SEED)
    texture = pipeline.sample_texture(condition, shape, seed=SEED)
    return Generated(structure.items[0], pipeline.decode(shape, texture)[0])


def scores(generated: Generated, sample: WorldSample, seen: torch.Tensor, front: int) -> dict[str, float]:
    """The figures of `measure`; the colour error of all points `seen` [P, 3], and of the first `front` of them."""
    coarse = torch.unique(sample.voxels.dual_grid.coords * STRUCTURE // RESOLUTION, dim=0)
    colors = [base_color(field, seen) for field in (generated.asset.field, sample.voxels.field)]
    error = delta_e(*colors)
    return {
        "structure_iou": structure_iou(generated.structure.to(coarse.device), coarse),
        "f_score": f_score(generated.asset.mesh, sample.surface, SURFACE_DISTANCE),
        "delta_e": float(error.mean()),
        "delta_e_front": float(error[:front].mean()),
    }


def add_rows(pipeline: Pipeline, sample: WorldSample, modes: list[str], rows: Rows, waited: float) -> None:
    """Makes the object in every mode that is not there yet, and adds the figures. waited: seconds for the sample."""
    started = time.perf_counter() - waited
    views = [replace(sample.view, camera=replace(sample.view.camera, yaw_deg=azimuth)) for azimuth in AZIMUTHS]
    pictures = sample.pictures(views)
    points = [visible_points(sample.surface, view.camera) for view in views]
    ready = (time.perf_counter() - started) / len(modes)
    for mode in modes:
        if rows.has(name=sample.case.name, mode=mode):
            continue
        started = after = time.perf_counter()
        try:
            made = generate(pipeline, pictures, sample, mode)
            if made.structure.is_cuda:
                torch.cuda.synchronize()
            after = time.perf_counter()
            found = scores(made, sample, torch.cat(points), len(points[0]))
        except EmptyOutputError:
            after = time.perf_counter()
            found = {"structure_iou": 0.0, "f_score": 0.0, "delta_e": math.nan, "delta_e_front": math.nan}
        times = {"seconds": after - started, "figures": time.perf_counter() - after, "objects": ready}
        rows.add({"name": sample.case.name, "mode": mode, **found, **times})
        _line(sample.case.name, rows.rows[-1])


def main() -> None:
    """Prints a row for every object and mode, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default=str(DEVICE))
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--split", default="instances", help="instances, or families that were never trained on")
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    parser.add_argument("--csv", type=Path, default=Path("views.csv"))
    arguments = parser.parse_args()
    begun = time.perf_counter()
    pipeline = Pipeline.load(arguments.model, choose_residency("auto", arguments.device))
    sys.stderr.write(f"model opened after {time.perf_counter() - begun:.1f} s\n")
    rows, head = Rows(arguments.csv, ("name", "mode", *COLUMNS)), "".join(f"{column:>15}" for column in COLUMNS)
    sys.stdout.write(f"{'':<24}{'mode':<12}{head}\n")
    cases = held_out(arguments.split, arguments.objects)
    left = [case for case in cases if not all(rows.has(name=case.name, mode=mode) for mode in arguments.modes)]
    started = time.perf_counter()
    for sample in world_samples(left, torch.device(arguments.device)):
        waited = time.perf_counter() - started
        if sample.case is left[0]:
            sys.stderr.write(f"first object after {time.perf_counter() - begun:.1f} s\n")
        add_rows(pipeline, sample, arguments.modes, rows, waited)
        started = time.perf_counter()
    names = {case.name for case in cases}
    sys.stdout.write(f"\n{'':<24}{'mode':<12}{head}\n")
    for mode in arguments.modes:
        own = [row for row in rows.rows if row["mode"] == mode and row["name"] in names]
        finite = {key: [float(row[key]) for row in own if not math.isnan(float(row[key]))] for key in COLUMNS}
        means = {key: sum(values) / len(values) if values else math.nan for key, values in finite.items()}
        _line(f"mean of {len(own)}", {"mode": mode, **means})


def _line(name: str, row: Mapping[str, float | str]) -> None:
    sys.stdout.write(f"{name:<24}{row['mode']:<12}" + "".join(f"{float(row[c]):>15.3f}" for c in COLUMNS) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

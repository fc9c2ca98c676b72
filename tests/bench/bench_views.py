"""Several views against one, on held-out objects of the world: F-score at 2 %, colour error, seconds of sampling.

Every object is drawn from its front, left, back and right, with the pitch, field of view and light of its evaluation
picture, and made with the same noise in every mode. The colour error is the mean Delta E 76 over the surface that one
of the four cameras sees; that of what the front sees stands beside it.

A mode is one, average, cycle, or blend:TEMPERATURE. `--device cuda --objects 50` is the whole measurement.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from bench import DEVICE
from comfyui_trellis2.o_voxel.values import to_device
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from comfyui_trellis2.trellis2.image import prepare_image
from comfyui_trellis2.trellis2.image.views import ViewBlend, ViewDirection
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.streaming import choose_residency
from comfyui_trellis2.trellis2.training.evaluation.evaluate import (
    RESOLUTION,
    STRUCTURE,
    Generated,
    WorldCase,
    base_color,
    held_out,
    measure,
)
from comfyui_trellis2.trellis2.training.evaluation.metrics import delta_e, visible_points
from comfyui_trellis2.trellis2.training.world import RenderedObject, draw_views, make_rendered_object
from comfyui_trellis2.trellis2.training.world.views import to_image
from comfyui_trellis2.trellis2.values import EmptyOutputError
from PIL import Image

AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
MODES = ("one", "average", "cycle", "blend:0.05", "blend:0.2", "blend:1")
COLUMNS = ("structure_iou", "f_score", "delta_e", "delta_e_front", "seconds")
SEED = 0


def pictures_of(sample: RenderedObject, size: int = 512) -> list[Image.Image]:
    """The object's prepared pictures from AZIMUTHS."""
    first = sample.views[0]
    views = [replace(first, camera=replace(first.camera, yaw_deg=azimuth)) for azimuth in AZIMUTHS]
    return [prepare_image(to_image(picture)) for picture in draw_views(sample.mesh, views, size)]


def generate(pipeline: Pipeline, pictures: list[Image.Image], sample: RenderedObject, mode: str) -> Generated:
    """The object in a mode, at 512."""
    view_mode, config = mode, pipeline.config
    if mode.startswith("blend"):
        pitch = sample.views[0].camera.pitch_deg
        view_mode = ViewBlend(tuple(ViewDirection(a, pitch) for a in AZIMUTHS), float(mode.partition(":")[2]))
    views, view_mode = (pictures[:1], "average") if mode == "one" else (pictures, view_mode)
    condition = pipeline.condition([views], resolution=RESOLUTION, view_mode=view_mode)
    structure = pipeline.sample_structure(
        condition, seed=SEED, resolution=STRUCTURE, sampler=config.sparse_structure_sampler
    )
    shape = pipeline.sample_shape(condition, structure, seed=SEED)
    texture = pipeline.sample_texture(condition, shape, seed=SEED)
    return Generated(structure.items[0], pipeline.decode(shape, texture)[0])


def scores(generated: Generated, sample: RenderedObject) -> dict[str, float]:
    """The figures of `measure` for the front's camera, and the colour error of what all four cameras see."""
    camera = sample.views[0].camera
    found = measure(generated, sample.voxels, camera)
    true = to_device(sample.voxels, generated.asset.mesh.vertices.device)
    surface = dual_grid_to_mesh(true.dual_grid)
    seen = torch.cat([visible_points(surface, replace(camera, yaw_deg=azimuth)) for azimuth in AZIMUTHS])
    colors = [base_color(field, seen) for field in (generated.asset.field, true.field)]
    return {**found, "delta_e_front": found["delta_e"], "delta_e": float(delta_e(*colors).mean())}


def rows(pipeline: Pipeline, case: WorldCase, modes: list[str]) -> Iterator[dict[str, float | str]]:
    """The figures of an object in every mode."""
    sample = make_rendered_object(case.family, case.seed, resolution=RESOLUTION, image_size=512)
    pictures = pictures_of(sample)
    for mode in modes:
        started = time.perf_counter()
        try:
            found = scores(generate(pipeline, pictures, sample, mode), sample)
        except EmptyOutputError:
            found = {"structure_iou": 0.0, "f_score": 0.0, "delta_e": math.nan, "delta_e_front": math.nan}
        yield {"name": case.name, "mode": mode, **found, "seconds": time.perf_counter() - started}


def main() -> None:
    """Prints a row for every object and mode, then the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default=str(DEVICE))
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--split", default="instances", help="instances, or families that were never trained on")
    parser.add_argument("--modes", nargs="+", default=list(MODES))
    arguments = parser.parse_args()
    pipeline = Pipeline.load(arguments.model, choose_residency("auto", arguments.device))
    found, head = [], f"{'':<24}{'mode':<12}" + "".join(f"{column:>15}" for column in COLUMNS)
    sys.stdout.write(head + "\n")
    for case in held_out(arguments.split, arguments.objects):
        for row in rows(pipeline, case, arguments.modes):
            found.append(row)
            _line(str(row["name"]), row)
    sys.stdout.write("\n" + head + "\n")
    for mode in arguments.modes:
        own = [row for row in found if row["mode"] == mode]
        finite = {column: [row[column] for row in own if not math.isnan(row[column])] for column in COLUMNS}
        means = {column: sum(values) / len(values) if values else math.nan for column, values in finite.items()}
        _line(f"mean of {len(own)}", {"mode": mode, **means})


def _line(name: str, row: dict[str, float | str]) -> None:
    sys.stdout.write(f"{name:<24}{row['mode']:<12}" + "".join(f"{row[c]:>15.3f}" for c in COLUMNS) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

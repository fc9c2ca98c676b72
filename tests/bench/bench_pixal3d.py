"""Pixal3D beside TRELLIS.2 at the published sizes, image to mesh at 1024: seconds and peak memory of every stage.

Random weights and a forced shape, as bench_pipeline does it. A case is MODEL:VIEWS[:own], with the model trellis2 or
pixal3d. Pixal3D samples the voxels of TRELLIS.2's cascade, so that both do the same work; with "own" those of its own
cascade, which are more. Projection and NAF are part of the stage that they are for, encoding of all views of
"condition". TRELLIS.2 runs its networks once for every view.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from bench import DEVICE, ROOT
from bench_pipeline import ROLES, STAGES, Case, ForcedPipeline, ForcedShape, RandomWeights, run_case, save
from comfyui_trellis2.trellis2.checkpoint.config import parse_pipeline
from comfyui_trellis2.trellis2.checkpoint.layouts import IMAGE_UPSAMPLER
from comfyui_trellis2.trellis2.checkpoint.pixal3d import description_of, pipeline_of
from comfyui_trellis2.trellis2.image.views import ViewDirection
from comfyui_trellis2.trellis2.models import Backends
from comfyui_trellis2.trellis2.models.naf import NafConfig, NafUpsampler
from comfyui_trellis2.trellis2.projection.camera import ViewRig
from comfyui_trellis2.trellis2.sampling import stages
from goals import PROMISES_MISSED

CASES = ("trellis2:1", "pixal3d:1", "pixal3d:4", "pixal3d:1:own", "trellis2:4")
# What is promised, of Pixal3D over TRELLIS.2 with one view, and of four views over one in every stage that samples.
TIME, MEMORY, VIEWS = 1.15, 1.3, 1.15


class RandomPixal3D(RandomWeights):
    """Pixal3D's published networks, and its upsampler, with random weights."""

    def __init__(self, shape) -> None:
        super().__init__(shape)
        published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text(encoding="utf-8"))
        self.config = parse_pipeline(pipeline_of(published["pipeline"]), "published.json")
        self.descriptions = {role: description_of(one) for role, one in self.descriptions.items()}

    def _random(self, role, dtype):
        if role == IMAGE_UPSAMPLER:
            return NafUpsampler(NafConfig()).to(DEVICE).requires_grad_(False).eval()
        return super()._random(role, dtype)


class SeenFromAround(ForcedPipeline):
    """The forced pipeline, whose object is seen by several cameras around it."""

    views = 1

    def condition(self, objects, **options):
        pictures, rig = [objects[0] * self.views], None
        if self.config.projects:
            around = [ViewDirection(360.0 * k / self.views) for k in range(self.views)]
            rig = ViewRig(directions=tuple(around) if self.views > 1 else None)
        return super().condition(pictures, **options, **({} if rig is None else {"view_mode": rig}))


@dataclass(frozen=True)
class ViewsCase(Case):
    """A case of bench_pipeline with several views. model: of the table."""

    model: str = "trellis2"
    views: int = 1

    def pipeline(self, layout):
        layout = layout if self.quantization == "none" else layout.copied()
        pipeline = SeenFromAround(layout, self.quantization, vram=self.vram, backends=Backends())
        pipeline.views = self.views
        return pipeline


def measured(text, options, layouts):
    """The rows of the case `text`."""
    model, views, *own = text.split(":")
    on_faces = own == ["own"]
    kind = "own" if on_faces else model
    if kind not in layouts:
        shape = ForcedShape([1024], on_faces=on_faces)
        layouts[kind] = (RandomPixal3D if model == "pixal3d" else RandomWeights)(shape)
        if kind == "own" and "pixal3d" in layouts:  # the same networks, of which the decoder is forced anew
            layouts[kind].made = {k: v for k, v in layouts["pixal3d"].made.items() if k != "shape_slat_decoder"}
        # Before any measurement: in the making they are in float32.
        for role in (*ROLES, *([IMAGE_UPSAMPLER] if model == "pixal3d" else [])):
            layouts[kind].make(role)
    case = ViewsCase("1024_cascade", options.vram, options.limit, options.variant, None, model, int(views))
    print(f"\n{text}:", end="")
    floored = stages.cascade_voxels
    with patch.object(stages, "cascade_voxels", lambda *a, **k: floored(*a, **{**k, "on_faces": on_faces})):
        rows = run_case(layouts[kind], case, options.runs)
    layouts[kind].offload()
    return [{"case": text} | row for row in rows]


def verdicts(rows):
    """Each promise about `rows`, and whether it is kept."""
    found, table = [], {(row["case"], row["stage"]): row for row in rows}

    def ratio(what, one, other, stage, column, most):
        if (one, stage) in table and (other, stage) in table:
            share = table[one, stage][column] / max(1e-9, table[other, stage][column])
            found.append((f"{what}: {share:.3f} <= {most}", share <= most))

    for stage in ("sampling + decode", "whole"):
        ratio(f"Pixal3D / TRELLIS.2, {stage}, time", "pixal3d:1", "trellis2:1", stage, "median_s", TIME)
        ratio(f"Pixal3D / TRELLIS.2, {stage}, memory", "pixal3d:1", "trellis2:1", stage, "peak_gib", MEMORY)
    for stage in STAGES[1:-1]:
        ratio(f"four views / one, {stage}, time", "pixal3d:4", "pixal3d:1", stage, "median_s", VIEWS)
    ratio("four views / one, whole, memory", "pixal3d:4", "pixal3d:1", "whole", "peak_gib", MEMORY)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--vram", choices=("auto", "high", "low"), default="high")
    parser.add_argument("--limit", type=float, default=0, help="GiB of the card that may be taken; 0: all")
    parser.add_argument("--variant", default="bf16", help="bf16, int8 or fp8")
    parser.add_argument("--runs", type=int, default=3, help="after the first; 0: that one alone")
    parser.add_argument("--save", metavar="CSV", nargs="?", const=ROOT / "tests" / "bench" / "results" / "pixal3d.csv")
    options = parser.parse_args()
    if DEVICE.type != "cuda":
        print("bench_pixal3d needs a CUDA device: it measures the card's memory")
        return 0
    layouts, rows = {}, []
    for text in options.cases:
        with torch.no_grad():
            rows += measured(text, options, layouts)
        if options.save:
            save(Path(options.save), rows)
    found = verdicts(rows)
    for text, kept in found:
        print(f"{'kept  ' if kept else 'MISSED'}  {text}")
    return 0 if all(kept for _, kept in found) else PROMISES_MISSED


if __name__ == "__main__":
    sys.exit(main())

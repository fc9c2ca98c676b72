"""The whole pipeline at the published sizes, image to mesh: seconds and peak memory of every stage.

Random weights, so what they would predict is forced to the standard shape of the baseline: the structure's voxels
(2,380 at 512, by the way 9,556 at 1024), and at every level of the shape decoder which children exist; what the network
says is computed and thrown away. Everything else runs as it does for a user, from the image encoder to the mesh, with
the published sampler settings: 22 + 21 + 21 + 12 forwards. Uploads of networks are part of the stage that uses them.

A case is TYPE:VRAM:LIMIT: pipeline type, vram mode, and the GiB that the process may take of the card (0: all); a case
that does not fit fails. The CUDA context, about half a GiB, is outside torch's count.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from dataclasses import replace

import torch
import triton
from bench import DEVICE, ROOT, surface_voxels
from pack.trellis2.checkpoint import IMAGE_ENCODER, Checkpoint
from pack.trellis2.config import parse_pipeline
from pack.trellis2.dino import VIT_L16, DinoVisionTransformer
from pack.trellis2.models import Backends, build_model
from pack.trellis2.models.sparse_vae import UpBlock
from pack.trellis2.pipeline import MAX_TOKENS, PIPELINE_TYPES, Pipeline
from pack.trellis2.sparse import CoordSet
from pack.trellis2.stages import cascade_voxels
from PIL import Image

GIB = 2**30
# What a case is measured against: (type, vram) to seconds of sampling and decoding, and GiB.
SECONDS = {("1024_cascade", "high"): 3.9}
CEILINGS = {("1024_cascade", "auto"): 8, ("1024_cascade", "low"): 5, ("1536_cascade", "auto"): 12}
CEILINGS |= {("2048_cascade", "auto"): 16}
LOW_AT_MOST = 1.6
CASES = ("1024_cascade:auto:8", "1024_cascade:low:5", "1536_cascade:auto:12", "2048_cascade:auto:16")
CASES += ("1024_cascade:high:0",)
STAGES = ("condition", "structure", "shape", "cascade", "texture", "decode")
# Of a cascade.
ROLES = (IMAGE_ENCODER, "sparse_structure_flow_model", "sparse_structure_decoder", "shape_slat_flow_model_512")
ROLES += ("shape_slat_decoder", "shape_slat_flow_model_1024", "tex_slat_flow_model_1024", "tex_slat_decoder")
# How the networks are run. More enter here as the code has them.
VARIANTS = {"bf16": Backends(), "bf16 eager": Backends(launch="eager")}


class RandomWeights:
    """A checkpoint's layout without files: the published networks with random weights, made on the device."""

    def __init__(self, shape: "ForcedShape") -> None:
        published = json.loads((ROOT / "trellis2" / "published.json").read_text(encoding="utf-8"))
        self.config, self.descriptions = parse_pipeline(published["pipeline"], "published.json"), published["models"]
        self.shape, self.made = shape, {}

    def load(self, role, dtype, backends):
        model = self.make(role, dtype)
        if "flow" in role:
            model.backends = backends
        return model

    def make(self, role, dtype=None):
        if role not in self.made:
            self.made[role] = self._random(role, dtype).to("cpu")
        return self.made[role]

    def _random(self, role, dtype):
        if role == IMAGE_ENCODER:
            encoder = DinoVisionTransformer(VIT_L16, device=DEVICE, dtype=torch.float32).requires_grad_(False).eval()
            for parameter in encoder.parameters():
                parameter.normal_(0, 0.02)
            return encoder
        model = build_model(self.descriptions[role], role, dtype=dtype, device=DEVICE)
        if role == "shape_slat_decoder":
            blocks = [block for level in model.blocks for block in level if isinstance(block, UpBlock)]
            for level, block in enumerate(blocks):
                self.shape.force(block, level)
        return model


class ForcedShape:
    """Which children exist at every level of the standard shape, in the order of a decode, for some resolutions."""

    def __init__(self, resolutions) -> None:
        self.resolution, self.masks = 512, {}
        coarse = self._coarsened(surface_voxels(512), 4)[-1]
        self.structure = coarse.voxels.clone()
        fine = self._masks(512, self.structure)
        self.counts = {512: len(fine)}
        for resolution in resolutions:
            latent, reached = cascade_voxels(fine.voxels, 512, resolution, MAX_TOKENS)
            self.counts[reached] = len(self._masks(reached, latent))
            self.counts[reached // 16] = len(latent)

    def force(self, block, level):
        """Let an up block of the shape decoder predict the forced children, after it has predicted its own."""
        predict = block.logits

        def forced(x):
            mask = self.masks[self.resolution][level]
            if len(mask) != len(x.coords):
                raise RuntimeError(f"forced shape: expected {len(mask)} voxels at level {level}, got {len(x.coords)}")
            return torch.where(mask, 1.0, -1.0).to(predict(x).dtype)

        block.logits = forced

    def _masks(self, resolution, latent):
        """Fill in a resolution's masks, starting at these latent voxels. Returns the finest voxels."""
        coords = CoordSet.from_items([latent])
        surface = [CoordSet.from_items([surface_voxels(resolution)])]
        surface = list(reversed(surface + self._coarsened(surface[0].voxels, 3)))
        bits = torch.arange(8, device=DEVICE)
        offset = torch.stack([bits * 0, bits & 1, bits >> 1 & 1, bits >> 2 & 1], 1).int()
        doubled = torch.tensor([1, 2, 2, 2], dtype=torch.int32, device=DEVICE)
        self.masks[resolution] = []
        for level in surface:
            mask = torch.cat(
                [level.index().find(part[:, None] * doubled + offset) >= 0 for part in coords.rows.split(2**20)]
            )
            self.masks[resolution].append(mask)
            coords = coords.subdivide(mask).fine
        return coords

    @staticmethod
    def _coarsened(voxels, times):
        found = [CoordSet.from_items([voxels])]
        for _ in range(times):
            found.append(found[-1].coarsen().coarse)
        return found[1:]


class ForcedPipeline(Pipeline):
    """The pipeline, whose structure and decoded shape are those of `shape`."""

    def __init__(self, layout, **options) -> None:
        super().__init__(Checkpoint(layout), **options)
        self.shape = layout.shape

    def sample_structure(self, *args, **options):
        return replace(super().sample_structure(*args, **options), items=(self.shape.structure,))

    def cascade_shape(self, *args, **options):
        self.shape.resolution = 512
        return super().cascade_shape(*args, **options)

    def decode(self, shape, *args, **options):
        (self.shape.resolution,) = shape.resolutions
        return super().decode(shape, *args, **options)


def one_run(pipeline, kind):
    """{stage: (seconds, peak GiB allocated, peak GiB reserved)} of one picture."""
    picture, told, values = Image.effect_noise((1024, 1024), 80).convert("RGB"), {}, {}

    def stage(name, work):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        values[name] = work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        told[name] = (seconds, torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB)
        return values[name]

    image = stage("condition", lambda: pipeline.condition([[picture]], resolution=kind.resolution))
    structure = stage("structure", lambda: pipeline.sample_structure(image, seed=1, resolution=kind.structure))
    shape = stage("shape", lambda: pipeline.sample_shape(image, structure, seed=1))
    shape = stage("cascade", lambda: pipeline.cascade_shape(image, shape, seed=1, resolution=kind.cascade))
    texture = stage("texture", lambda: pipeline.sample_texture(image, shape, seed=1))
    (asset,) = stage("decode", lambda: pipeline.decode(shape, texture))
    sizes = f"{len(shape.slat.coords):,} tokens, {len(asset.mesh.vertices):,} voxels, {len(asset.mesh.faces):,} faces"
    sampled = [told[name] for name in STAGES[1:]]
    told["sampling + decode"] = (sum(t[0] for t in sampled), max(t[1] for t in sampled), max(t[2] for t in sampled))
    told["whole"] = (sum(told[n][0] for n in STAGES), *(max(told[n][k] for n in STAGES) for k in (1, 2)))
    return told, sizes


def run_case(layout, case, variant, repeat):
    """The rows of one case: a run to warm up, told apart, then `repeat` more."""
    kind, vram, limit = case.split(":")
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(float(limit) * GIB / total if float(limit) else 1.0)
    pipeline = ForcedPipeline(layout, vram=vram, backends=VARIANTS[variant])
    first, sizes = one_run(pipeline, PIPELINE_TYPES[kind])
    runs = [one_run(pipeline, PIPELINE_TYPES[kind])[0] for _ in range(repeat)] or [first]
    pipeline.unload()
    print(f"\n{case} {variant}: {type(pipeline.residency).__name__}, {sizes}")
    rows = []
    for name in (*STAGES, "sampling + decode", "whole"):
        times = sorted(run[name][0] for run in runs)
        median, low, high = statistics.median(times), times[len(times) // 5], times[-1 - len(times) // 5]
        peak, reserved = (max(run[name][k] for run in [first, *runs]) for k in (1, 2))
        warm_up = max(0.0, first[name][0] - median)
        print(
            f"  {name:<18}{median:8.3f} s ({low:.3f} to {high:.3f})  peak {peak:6.2f} GiB, reserved {reserved:6.2f}"
            f"  first run + {warm_up:.2f} s"
        )
        rows.append(
            {"type": kind, "vram": vram, "limit_gib": limit, "variant": variant, "stage": name, "median_s": median}
            | {"p20_s": low, "p80_s": high, "peak_gib": peak, "reserved_gib": reserved, "warm_up_s": warm_up}
            | {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
            | {"cuda": torch.version.cuda}
        )
    return rows


def verdicts(rows):
    """Each target that the cases of `rows` have, and whether it is met."""
    found, whole = [], {}
    for row in rows:
        key = (row["type"], row["vram"])
        if row["stage"] == "sampling + decode" and key in SECONDS and row["variant"] == "bf16":
            found.append(
                (f"{' '.join(key)}: {row['median_s']:.2f} s <= {SECONDS[key]}", row["median_s"] <= SECONDS[key])
            )
        if row["stage"] == "whole":
            whole[(row["variant"], *key)] = row["median_s"]
            if key in CEILINGS:
                peak = row["reserved_gib"]
                found.append((f"{' '.join(key)}: {peak:.2f} GiB <= {CEILINGS[key]}", peak <= CEILINGS[key]))
    for (variant, kind, vram), seconds in whole.items():
        usual = whole.get((variant, kind, "auto"))
        if vram == "low" and usual:
            ratio = seconds / usual
            found.append((f"{kind} low: {ratio:.2f} x auto's time <= {LOW_AT_MOST}", ratio <= LOW_AT_MOST))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--variants", nargs="+", default=["bf16"], choices=VARIANTS)
    parser.add_argument("--repeat", type=int, default=3, help="runs after the first; 0: that one alone")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    if DEVICE.type != "cuda":
        print("bench_pipeline needs a CUDA device: it measures the card's memory")
        return 0
    kinds = {PIPELINE_TYPES[case.split(":")[0]].cascade for case in options.cases}
    with torch.no_grad():
        layout = RandomWeights(ForcedShape(sorted(kinds)))
        # Before any measurement: in the making they are in float32.
        for role in ROLES:
            layout.make(role)
        rows = [
            row for case in options.cases for v in options.variants for row in run_case(layout, case, v, options.repeat)
        ]
    print()
    met = verdicts(rows)
    for text, good in met:
        print(f"{'met   ' if good else 'MISSED'} {text}")
    if options.save:
        path = ROOT / "tests" / "bench" / "results" / "pipeline.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return 0 if all(good for _, good in met) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The whole pipeline at the published sizes, image to mesh: seconds and peak memory of every stage.

Random weights, so what they would predict is forced to the standard shape of the baseline: the structure's voxels
(2,380 at 512, by the way 9,556 at 1024), and at every level of the shape decoder which children exist; what the network
says is computed and thrown away. Everything else runs as it does for a user, from the image encoder to the mesh, with
the published sampler settings: 22 + 21 + 21 + 12 forwards. Uploads of networks are part of the stage that uses them.

A case is TYPE:VRAM:LIMIT[:VARIANT[:RUNS]]: pipeline type, vram mode, the GiB that the process may take of the card (0:
all; a case that does not fit fails), how the flow networks run (bf16, int8, fp8; +cache: step caching; +eager: without
recordings; +fresh: see below; @NAME at the end: that attention), and how many runs after the first. The CUDA context,
about half a GiB, is outside torch's count.

The runs of a case have the same voxels, as when a picture is tried with other settings: where networks stay on the
card, all but the first replay its recordings. +fresh is what other pictures cost, whose voxels differ: every run
records the latent stages anew.
"""

import argparse
import copy
import csv
import json
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import torch
from bench import DEVICE, ROOT, surface_voxels
from comfyui_trellis2.trellis2.checkpoint.config import parse_pipeline
from comfyui_trellis2.trellis2.checkpoint.layouts import IMAGE_ENCODER, Checkpoint
from comfyui_trellis2.trellis2.models import Backends, build_model
from comfyui_trellis2.trellis2.models.dino import VIT_L16, DinoVisionTransformer
from comfyui_trellis2.trellis2.models.sparse_vae import UpBlock
from comfyui_trellis2.trellis2.pipeline import MAX_TOKENS, PIPELINE_TYPES, Pipeline
from comfyui_trellis2.trellis2.runtime.cuda_graphs import clear_graphs
from comfyui_trellis2.trellis2.sampling.stages import cascade_voxels
from comfyui_trellis2.trellis2.sparse import CoordSet
from goals import PROMISES_MISSED
from PIL import Image

GIB = 2**30
# What is promised: seconds of sampling and decoding with all networks on the card, and GiB of a whole run.
SECONDS = {"bf16": 3.9, "int8": 3.0, "fp8": 3.0, "int8+cache": 2.2, "fp8+cache": 2.2}
CEILINGS = {("1024_cascade", "auto"): 8, ("1024_cascade", "low"): 5, ("1536_cascade", "auto"): 12}
CEILINGS |= {("2048_cascade", "auto"): 16}
LOW_AT_MOST = 1.6
CASES = ("1024_cascade:auto:8", "1024_cascade:low:5", "1536_cascade:auto:12:bf16:1", "2048_cascade:auto:16:bf16:1")
CASES += ("1024_cascade:high:0",)
STAGES = ("condition", "structure", "shape", "cascade", "texture", "decode")
# Of a cascade.
ROLES = (IMAGE_ENCODER, "sparse_structure_flow_model", "sparse_structure_decoder", "shape_slat_flow_model_512")
ROLES += ("shape_slat_decoder", "shape_slat_flow_model_1024", "tex_slat_flow_model_1024", "tex_slat_decoder")


@dataclass(frozen=True)
class Case:
    """One line of the table; see above. objects: pictures that are made as one batch."""

    kind: str
    vram: str
    limit: float
    variant: str = "bf16"
    runs: int | None = None
    objects: int = field(default=1, kw_only=True)

    @classmethod
    def parse(cls, text):
        kind, vram, limit, *rest = text.split(":")
        return cls(kind, vram, float(limit), *rest[:1], *map(int, rest[1:]))

    @property
    def quantization(self):
        return next((name for name in ("int8", "fp8") if name in self.variant), "none")

    def pipeline(self, layout):
        """The pipeline of this case, over networks of its own where they are quantised."""
        layout = layout if self.quantization == "none" else layout.copied()
        attention = self.variant.partition("@")[2] or "auto"
        backends = Backends(attention=attention, launch="eager" if "eager" in self.variant else "auto")
        pipeline = ForcedPipeline(layout, self.quantization, vram=self.vram, backends=backends)
        if "cache" in self.variant:
            names = ("sparse_structure_sampler", "shape_slat_sampler", "tex_slat_sampler")
            samplers = {name: getattr(pipeline.config, name) for name in names}
            cached = {n: replace(s, params=replace(s.params, step_cache=True)) for n, s in samplers.items()}
            pipeline.config = replace(pipeline.config, **cached)
        return pipeline


class RandomWeights:
    """A checkpoint's layout without files: the published networks with random weights, made on the device."""

    def __init__(self, shape: "ForcedShape") -> None:
        published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text(encoding="utf-8"))
        self.config, self.descriptions = parse_pipeline(published["pipeline"], "published.json"), published["models"]
        self.shape, self.made = shape, {}

    def files(self, role):
        return []

    def load(self, role, dtype, backends, quantization=None):
        model = self.make(role, dtype)
        if "flow" in role:
            for module in model.modules():
                if hasattr(module, "backends"):
                    module.backends = backends
        return model

    def copied(self):
        """The same weights, in flow networks that may be altered."""
        other = copy.copy(self)
        other.made = {role: copy.deepcopy(model) if "flow" in role else model for role, model in self.made.items()}
        return other

    def offload(self):
        """All networks to the CPU: a case that kept them on the card leaves no room for the next."""
        for model in self.made.values():
            model.to("cpu")
        torch.cuda.empty_cache()

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
    """Which children exist at every level of the standard shape, in the order of a decode, for some resolutions.
    on_faces: see `cascade_voxels`."""

    def __init__(self, resolutions, on_faces=False) -> None:
        self.resolution, self.masks = 512, {}
        coarse = self._coarsened(surface_voxels(512), 4)[-1]
        self.structure = coarse.voxels.clone()
        fine = self._masks(512, self.structure)
        self.counts = {512: len(fine)}
        for resolution in resolutions:
            latent, reached = cascade_voxels(fine.voxels, 512, resolution, MAX_TOKENS, on_faces=on_faces)
            self.counts[reached] = len(self._masks(reached, latent))
            self.counts[reached // 16] = len(latent)

    def force(self, block, level):
        """Let an up block of the shape decoder predict the forced children, after it has predicted its own."""
        predict = block.logits

        def forced(x):
            mask = self.masks[self.resolution][level].repeat(x.coords.batch_size, 1)
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
    """The pipeline, whose structure and decoded shape are those of `shape`, the same for all objects of a batch."""

    def __init__(self, layout, quantization, **options) -> None:
        super().__init__(Checkpoint(layout, *([] if quantization == "none" else [quantization])), **options)
        self.shape = layout.shape

    def sample_structure(self, *args, **options):
        sampled = super().sample_structure(*args, **options)
        return replace(sampled, items=(self.shape.structure,) * len(sampled.items))

    def cascade_shape(self, *args, **options):
        self.shape.resolution = 512
        return super().cascade_shape(*args, **options)

    def decode(self, shape, *args, **options):
        (self.shape.resolution,) = set(shape.resolutions)
        return super().decode(shape, *args, **options)


@dataclass(frozen=True)
class Sizes:
    """How much a run had to do: tokens of the last latent, voxels and triangles of the decoded surfaces."""

    tokens: int
    voxels: int
    faces: int

    def __str__(self) -> str:
        return f"{self.tokens:,} tokens, {self.voxels:,} voxels, {self.faces:,} faces"


def one_run(pipeline, kind, objects=1):
    """{stage: (seconds, peak GiB allocated, peak GiB reserved)} of a batch of pictures, and its Sizes."""
    pictures = [[Image.effect_noise((1024, 1024), 80).convert("RGB")] for _ in range(objects)]
    told, values = {}, {}

    def stage(name, work):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        values[name] = work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        told[name] = (seconds, torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB)
        return values[name]

    image = stage("condition", lambda: pipeline.condition(pictures, resolution=kind.resolution))
    structure = stage("structure", lambda: pipeline.sample_structure(image, seed=1, resolution=kind.structure))
    shape = stage("shape", lambda: pipeline.sample_shape(image, structure, seed=1))
    shape = stage("cascade", lambda: pipeline.cascade_shape(image, shape, seed=1, resolution=kind.cascade))
    texture = stage("texture", lambda: pipeline.sample_texture(image, shape, seed=1))
    meshes = [asset.mesh for asset in stage("decode", lambda: pipeline.decode(shape, texture))]
    sizes = Sizes(len(shape.slat.coords), sum(len(m.vertices) for m in meshes), sum(len(m.faces) for m in meshes))
    sampled = [told[name] for name in STAGES[1:]]
    told["sampling + decode"] = (sum(t[0] for t in sampled), max(t[1] for t in sampled), max(t[2] for t in sampled))
    told["whole"] = (sum(told[n][0] for n in STAGES), *(max(told[n][k] for n in STAGES) for k in (1, 2)))
    return told, sizes


def other_picture(pipeline):
    """Forget what depends on the voxels of the last run."""
    for role, model in pipeline.networks.loaded.items():
        if "slat_flow" in role:
            clear_graphs(model)


def run_case(layout, case, runs):
    """The rows of one case: a run to warm up, told apart, then `runs` more unless the case says how many."""
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(case.limit * GIB / total if case.limit else 1.0)
    pipeline, runs = case.pipeline(layout), runs if case.runs is None else case.runs
    first, sizes = one_run(pipeline, PIPELINE_TYPES[case.kind], case.objects)
    later = []
    for _ in range(runs):
        if "fresh" in case.variant:
            other_picture(pipeline)
        later.append(one_run(pipeline, PIPELINE_TYPES[case.kind], case.objects)[0])
    later = later or [first]
    pipeline.unload()
    held = f"{case.limit:g} GiB" + (f", batch of {case.objects}" if case.objects > 1 else "")
    print(f"\n{case.kind} {case.vram} {case.variant}, {held}: {type(pipeline.residency).__name__}, {sizes}")
    rows = []
    for name in (*STAGES, "sampling + decode", "whole"):
        times = sorted(run[name][0] for run in later)
        median, low, high = statistics.median(times), times[len(times) // 5], times[-1 - len(times) // 5]
        peak, reserved = (max(run[name][k] for run in [first, *later]) for k in (1, 2))
        warm_up = max(0.0, first[name][0] - median)
        print(
            f"  {name:<18}{median:8.3f} s ({low:.3f} to {high:.3f})  peak {peak:6.2f} GiB, reserved {reserved:6.2f}"
            f"  first run + {warm_up:.2f} s",
            flush=True,
        )
        rows.append(
            {"type": case.kind, "vram": case.vram, "limit_gib": case.limit, "variant": case.variant, "stage": name}
            | {"median_s": median, "p20_s": low, "p80_s": high, "peak_gib": peak, "reserved_gib": reserved}
            | {"warm_up_s": warm_up, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
            | {"triton": version("triton"), "cuda": torch.version.cuda}
        )
    return rows


def verdicts(rows):
    """Each promise about one of `rows`, and whether it is kept."""
    found, whole = [], {}
    for row in rows:
        kind, vram, variant = row["type"], row["vram"], row["variant"]
        if row["stage"] == "sampling + decode" and (kind, vram) == ("1024_cascade", "high") and variant in SECONDS:
            seconds, wanted = row["median_s"], SECONDS[variant]
            found.append((f"{kind} {variant}, sampling + decode: {seconds:.2f} s <= {wanted}", seconds <= wanted))
        if row["stage"] == "whole":
            whole[kind, vram, variant] = row["median_s"]
            if (kind, vram) in CEILINGS:
                peak, wanted = row["peak_gib"], CEILINGS[kind, vram]
                limit = f"ran within {row['limit_gib']:g} GiB, its peak {peak:.2f} GiB <= {wanted}"
                found.append((f"{kind} {vram} {variant}: {limit}", peak <= wanted))
    for (kind, vram, variant), seconds in whole.items():
        usual = whole.get((kind, "auto", variant))
        if vram == "low" and usual:
            ratio = seconds / usual
            found.append((f"{kind} low {variant}: {ratio:.2f} times auto's <= {LOW_AT_MOST}", ratio <= LOW_AT_MOST))
    return found


def random_layout(cases):
    """Random networks for all of `cases`, made before any measurement: in the making they are in float32."""
    layout = RandomWeights(ForcedShape(sorted({PIPELINE_TYPES[case.kind].cascade for case in cases})))
    for role in ROLES:
        layout.make(role)
    return layout


def save(path, rows):
    """Write the rows so far: a bench that runs out of its time keeps them."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--runs", type=int, default=3, help="after the first; 0: that one alone")
    parser.add_argument("--save", metavar="CSV", nargs="?", const=ROOT / "tests" / "bench" / "results" / "pipeline.csv")
    options = parser.parse_args()
    if DEVICE.type != "cuda":
        print("bench_pipeline needs a CUDA device: it measures the card's memory")
        return 0
    cases, rows = [Case.parse(text) for text in options.cases], []
    with torch.no_grad():
        layout = random_layout(cases)
        for case in cases:
            rows += run_case(layout, case, options.runs)
            layout.offload()
            if options.save:
                save(options.save, rows)
    print()
    kept = verdicts(rows)
    for text, good in kept:
        print(f"{'kept  ' if good else 'MISSED'} {text}")
    return 0 if all(good for _, good in kept) else PROMISES_MISSED


if __name__ == "__main__":
    sys.exit(main())

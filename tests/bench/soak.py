"""Many objects in one process, through the nodes: does memory grow? Pictures, seeds, sizes, models and finishes change.

    python tests/bench/soak.py --runs 200 --model tiny                       # a CPU
    python tests/bench/soak.py --runs 50 --device cuda --model mini --model microsoft/TRELLIS.2-4B --type 512 \
        --type 1024_cascade --preset preview --preset none --csv soak.csv
    python tests/bench/soak.py --runs 50 --device cuda --published                 # no weights needed

--published: networks of the published sizes with random weights, as `bench_pipeline` makes them: types and 8-bit copies
take turns, and each run is of another picture.

After each run the process's resident memory is noted, and of a card what tensors hold, what torch keeps, and what is
free. A line is fitted to each, without the first runs, in which kernels are compiled and pools filled; what it rises
by, from the first run that counts to the last, has to stay below a limit. Exit status 1 if it does not.
"""

import argparse
import csv
import gc
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from bench import load_pack  # noqa: F401 importing it loads the pack
from comfyui_trellis2.nodes import host
from comfyui_trellis2.nodes.asset import FROM_PRESET, GameReadyAsset
from comfyui_trellis2.nodes.files.meshes import SaveGLB, SaveMesh
from comfyui_trellis2.nodes.host.folders import BUILT_IN
from comfyui_trellis2.nodes.image import ExampleImage, PrepareImage, example_pictures
from comfyui_trellis2.nodes.model import LoadModel
from comfyui_trellis2.nodes.stages import ImageTo3D
from comfyui_trellis2.trellis2.checkpoint.tiny import FEW_FACES, make_tiny
from comfyui_trellis2.trellis2.pipeline import Pipeline

MIB = 2**20
# Of --published: pipeline type and variant, see `bench_pipeline`.
TURNS = (("1024_cascade", "bf16"), ("1024_cascade", "int8"), ("1536_cascade", "bf16"), ("1024_cascade", "int8+cache"))
WARM_SHARE = 0.25  # of the runs, the first ones, which do not count
NO_PRESET = "none"
# What a fitted line may rise by. Nodes trim the heap, so that of the largest object nothing stays resident.
LIMITS_MIB = {"rss": 32.0, "allocated": 8.0, "reserved": 1024.0, "used": 1024.0}


@dataclass(frozen=True)
class Sample:
    """After one run. MiB: rss of the process; allocated by tensors, reserved by torch and used of the card, 0 on a CPU.
    peak: of allocated during the run."""

    run: int
    model: str
    picture: str
    type: str
    preset: str
    seconds: float
    triangles: int
    rss: float
    allocated: float = 0.0
    reserved: float = 0.0
    used: float = 0.0
    peak: float = 0.0


def resident_mib() -> float:
    """Resident memory of this process, from /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status: no VmRSS")


def card_mib(device: torch.device) -> dict[str, float]:
    """Memory of the card, {} on a CPU."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated": torch.cuda.memory_allocated(device) / MIB,
        "reserved": torch.cuda.memory_reserved(device) / MIB,
        "used": (total - free) / MIB,
        "peak": torch.cuda.max_memory_allocated(device) / MIB,
    }


def make(pipeline: Pipeline, picture: str, kind: str, seed: int, steps: int, preset: str) -> int:
    """One object through the nodes, as a graph calls them; returns its triangles."""
    image, mask = ExampleImage().load(picture)
    images = PrepareImage().prepare(image, "background (Load Image)", mask)["result"][0]
    meshes, fields = ImageTo3D().generate(pipeline, images, kind, seed, steps, 49152, "separate objects", "average")
    if len(meshes[0].faces) == 0:  # some seeds of a random model
        return 0
    if preset == NO_PRESET:
        SaveGLB().save(meshes[0], "soak/object", fields[0])
        return len(meshes[0].faces)
    made = GameReadyAsset().make(meshes[0], preset, 0, FROM_PRESET, FROM_PRESET, fields[0])
    mesh = (made["result"] if isinstance(made, dict) else made)[0]
    SaveMesh().save(mesh, "soak/object", "glb")
    return len(mesh.mesh.faces)


def samples(arguments: argparse.Namespace, output: Path) -> Iterator[Sample]:
    """Runs, and what each leaves behind. output: emptied after every run."""
    device = host.working_device()
    pictures = sorted(name for name in example_pictures() if "views" not in name and "photo" not in name)
    # As in ComfyUI's cache, a model stays open; its networks come and go as its residency has it.
    names = {model: BUILT_IN if model == "mini" else model for model in arguments.model}
    opened = {model: LoadModel().load(name, "auto", "auto", vram=arguments.vram)[0] for model, name in names.items()}
    cases = itertools.cycle(
        case
        for case in itertools.product(pictures, arguments.model, arguments.type)
        if case[2] in opened[case[1]].capabilities.pipeline_types
    )
    presets = itertools.cycle(arguments.preset)
    for run in range(arguments.runs):
        (picture, model, kind), preset = next(cases), next(presets)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        begun = time.monotonic()
        triangles = make(opened[model], picture, kind, run, arguments.steps, preset)
        seconds = time.monotonic() - begun
        for path in output.rglob("*.glb"):
            path.unlink()
        gc.collect()
        seen = card_mib(device)
        yield Sample(run, model, picture, kind, preset, round(seconds, 2), triangles, resident_mib(), **seen)


def published_samples(runs: int) -> Iterator[Sample]:
    """Runs at the published sizes, pictures to meshes; all pipelines stay open side by side."""
    import bench_pipeline as published

    resolutions = sorted({published.PIPELINE_TYPES[kind].cascade for kind, _ in TURNS})
    with torch.no_grad():
        layout = published.RandomWeights(published.ForcedShape(resolutions))
        for role in published.ROLES:
            layout.make(role)
    cases = [published.Case(kind, "high", 0, variant) for kind, variant in TURNS]
    opened = {case: case.pipeline(layout) for case in cases}
    for run, case in zip(range(runs), itertools.cycle(cases), strict=False):
        begun = time.monotonic()
        published.other_picture(opened[case])
        with torch.no_grad():
            told, sizes = published.one_run(opened[case], published.PIPELINE_TYPES[case.kind])
        seconds = round(time.monotonic() - begun, 2)
        gc.collect()
        seen = card_mib(torch.device("cuda")) | {"peak": told["whole"][1] * 1024}
        yield Sample(run, case.variant, "noise", case.kind, NO_PRESET, seconds, sizes.faces, resident_mib(), **seen)


def rise(values: Sequence[float]) -> float:
    """What a line fitted to the runs that count rises by, from the first of them to the last."""
    counted = np.array(values[int(len(values) * WARM_SHARE) :])
    if len(counted) < 3:
        return 0.0
    return float(np.polyfit(np.arange(len(counted)), counted, 1)[0] * (len(counted) - 1))


def main() -> int:
    """Runs, prints and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument(
        "--model", action="append", default=[], help="tiny (random, the default), mini, or Load Model's"
    )
    parser.add_argument("--type", action="append", default=[], help="pipeline type (default 512); repeat it")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument(
        "--preset", action="append", default=[], help="finish, or none (the default): vertex colours; repeat it"
    )
    parser.add_argument("--vram", default="auto")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what has to be there")
    parser.add_argument("--published", action="store_true", help="the published sizes, random weights; needs a card")
    parser.add_argument("--csv", type=Path, help="write the samples")
    arguments = parser.parse_args()
    arguments.model, arguments.type = arguments.model or ["tiny"], arguments.type or ["512"]
    arguments.preset = arguments.preset or [NO_PRESET]
    if host.working_device().type != arguments.device:
        parser.error(f"--device: expected {host.working_device().type}, which torch finds, got {arguments.device}")
    with tempfile.TemporaryDirectory() as folder:
        output, models = Path(folder, "output"), host.folders.models_folder()
        comfy_folder = host.folders.comfy_folder
        host.folders.comfy_folder = lambda place: output if place == "output" else comfy_folder(place)
        if "tiny" in arguments.model and not arguments.published:
            models = Path(folder, "models")
            host.folders.models_folder = lambda: models
            for name, share in (("tiny", FEW_FACES[0]), ("tiny2", 2 * FEW_FACES[0])):
                make_tiny(models / "trellis2" / name, size=(share, FEW_FACES[1]))
            arguments.model.append("tiny2")
        found = []
        for sample in published_samples(arguments.runs) if arguments.published else samples(arguments, output):
            found.append(sample)
            card = f", card {sample.allocated:,.0f}/{sample.reserved:,.0f}/{sample.used:,.0f}" if sample.used else ""
            print(
                f"{sample.run:4} {sample.model[-12:]:12} {sample.picture:8} {sample.type:12} {sample.preset:8} "
                f"{sample.seconds:7.1f} s {sample.triangles:9,} triangles, rss {sample.rss:8,.1f} MiB{card}",
                flush=True,
            )
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, asdict(found[0]))
            writer.writeheader()
            writer.writerows(map(asdict, found))
    bad = 0
    for name, limit in LIMITS_MIB.items():
        values = [getattr(sample, name) for sample in found]
        if any(values):
            risen = rise(values)
            bad += risen > limit
            print(f"{name}: {min(values):,.0f} to {max(values):,.0f} MiB, rises by {risen:,.1f} (limit {limit:,.0f})")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

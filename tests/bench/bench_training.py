"""One training step of each stage of a recipe: forward, backward, and the rest. The recipe's own networks and batch,
objects of the procedural world made beforehand, so the loading of examples is not in it.

With --profile also where the device's time goes, and how many kernels are launched. With --make N instead how fast the
recipe's processes make N objects of each stage: seconds until the first, then objects a second, of all and of each
core. A training run says the same of itself in metrics.csv: seconds a step, of which waiting for a batch, and the
objects there.
"""

import argparse
import time
from dataclasses import replace
from functools import partial

import torch
from bench import DEVICE, peak_mib, show_profile
from comfyui_trellis2.trellis2.checkpoint.config import Normalization
from comfyui_trellis2.trellis2.checkpoint.layouts import IMAGE_ENCODER
from comfyui_trellis2.trellis2.training.data.batches import to_device
from comfyui_trellis2.trellis2.training.data.dataset import world_sample
from comfyui_trellis2.trellis2.training.data.latents import ENCODERS
from comfyui_trellis2.trellis2.training.data.stream import default_workers, map_in_order, mixed_seed
from comfyui_trellis2.trellis2.training.loop.compilation import compile_parts
from comfyui_trellis2.trellis2.training.loop.distributed import DistributedContext
from comfyui_trellis2.trellis2.training.loop.state import EMA
from comfyui_trellis2.trellis2.training.loop.trainer import accumulate, make_optimizer
from comfyui_trellis2.trellis2.training.recipe import load_recipe
from comfyui_trellis2.trellis2.training.runs.encoding import collate_objects, encode
from comfyui_trellis2.trellis2.training.runs.networks import make_trainable, open_network
from comfyui_trellis2.trellis2.training.tasks import TASKS
from comfyui_trellis2.trellis2.training.tasks.flows import FlowSettings


def network(recipe, role):
    generator = torch.Generator().manual_seed(mixed_seed(recipe.seed, role, 0))
    return open_network(role, recipe.network(role), generator)


def task_of(recipe, stage):
    """The task of a stage, with new networks."""
    kind = TASKS[stage.task]
    trained = {role: make_trainable(network(recipe, role)) for role in kind.trained(stage)}
    if kind.inputs == "voxels":
        others = [role for role in kind.roles(stage) if role not in trained]
        return kind(trained, {role: network(recipe, role).to(DEVICE) for role in others}, stage).to(DEVICE)
    frozen = {} if stage.train_image_encoder else {IMAGE_ENCODER: network(recipe, IMAGE_ENCODER).to(DEVICE)}
    channels = recipe.networks["shape_slat_decoder"]["args"]["latent_channels"]
    plain = Normalization(mean=(0.0,) * channels, std=(1.0,) * channels)
    repeat = stage.image_size // recipe.picture(stage)
    return kind(trained, frozen, FlowSettings(stage, {"shape": plain, "texture": plain}, 1e-5, repeat)).to(DEVICE)


def examples_of(recipe, stage, objects):
    """What the stage learns from, of the first objects."""
    kind = TASKS[stage.task]
    views = int(kind.inputs == "latents")
    size = {"resolution": stage.resolution, "image_size": recipe.picture(stage), "views": views}
    examples = [world_sample(index, **size) for index in range(objects)]
    if kind.inputs == "voxels":
        return examples
    encoders = {name: network(recipe, ENCODERS[name]).to(DEVICE) for name in kind.learns}
    gathered = [collate_objects(kind.learns, recipe.data.structure, [(example, 0)]) for example in examples]
    return [found for batch in gathered for found in encode(encoders, batch, DEVICE)]


def bench(recipe, name, options):
    stage, context = recipe.stages[name], DistributedContext(DEVICE)
    stage = replace(stage, micro_batch=None, batch=options.batch or stage.batch)
    kind, task, items = TASKS[stage.task], task_of(recipe, stage), examples_of(recipe, stage, options.objects)
    items = [(items[k % len(items)], k) for k in range(stage.batch)]
    batch = kind.collate(items, recipe.data, stage)
    if DEVICE.type == "cuda":
        batch = {key: value.pin_memory() if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    if not options.plain:
        compile_parts(task, DEVICE)
    optimizer, ema = make_optimizer(task, stage), EMA(task, stage.ema)
    spent = dict.fromkeys(("upload", "backward", "rest"), 0.0)

    def now():
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(timed=now):
        begun = timed()
        given = to_device(batch, DEVICE)
        uploaded = timed()
        accumulate(task, iter([given]), 1, stage, context)
        learned = timed()
        torch.nn.utils.clip_grad_norm_(task.parameters(), stage.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(0)
        ended = timed()
        for key, start, end in (("upload", begun, uploaded), ("backward", uploaded, learned), ("rest", learned, ended)):
            spent[key] += end - start

    begun = now()
    step()
    first = now() - begun
    peak = peak_mib(step)
    spent.update(dict.fromkeys(spent, 0.0))
    begun = now()
    for _ in range(options.repeat):
        step(time.perf_counter)
    whole, host = (now() - begun) / options.repeat, sum(spent.values()) / options.repeat
    spent.update(dict.fromkeys(spent, 0.0))
    for _ in range(options.repeat):
        step()
    parts = ", ".join(f"{key} {1e3 * value / options.repeat:.1f}" for key, value in spent.items())
    print(
        f"{name:<24}batch {stage.batch:<4}{1e3 * whole:9.1f} ms a step, of which the host is busy {1e3 * host:.1f}; "
        f"one by one: {parts}; first {first:.1f} s, peak {peak:.0f} MiB",
        flush=True,
    )
    if options.profile and DEVICE.type == "cuda":
        show_profile(step)


def make(recipe, name, objects, workers):
    """Prints how fast `workers` processes make `objects` objects of a stage."""
    stage = recipe.stages[name]
    kind = TASKS[stage.task]
    views = recipe.views(stage) if kind.inputs == "latents" else 0
    size = {"resolution": stage.resolution, "image_size": recipe.picture(stage), "views": views}
    collate = partial(collate_objects, kind.learns if views else ("structure",), recipe.data.structure)
    begun = time.perf_counter()
    arrived = []
    for _ in map_in_order(partial(world_sample, **size, materials=kind.materials), range(objects), workers, collate):
        arrived.append(time.perf_counter() - begun)
    # The first objects of all workers wait for imports and compilation.
    settled = min(2 * workers, objects // 2)
    rate = (objects - settled) / (arrived[-1] - arrived[settled - 1])
    speed = f"{rate:.1f} objects a second by {workers} processes, {rate / max(1, workers):.2f} each"
    kind = f"{stage.resolution} voxels, {views} pictures"
    print(f"{name:<24}{kind}: first after {arrived[0]:.1f} s, then {speed}; all after {arrived[-1]:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE", help="change the recipe")
    parser.add_argument("--stages", nargs="+", help="default: all")
    parser.add_argument("--batch", type=int, help="objects a step, instead of the recipe's")
    parser.add_argument("--objects", type=int, default=4, help="different ones in a batch")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--plain", action="store_true", help="without torch.compile")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--make", type=int, metavar="N", help="instead time the making of N objects of each stage")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes that make them")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, TASKS, options.set)
    for name in options.stages or recipe.stages:
        if options.make:
            make(recipe, name, options.make, options.workers)
            continue
        bench(recipe, name, options)


if __name__ == "__main__":
    main()

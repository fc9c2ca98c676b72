"""Training commands: the procedural dataset, runs, checkpoints and their evaluation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import MESH_SUFFIXES, PICTURE_SUFFIXES, check_device, check_folder, check_output, positive, voxels_a_side
from .shared import CHECKPOINT, metric_bars, warn

if TYPE_CHECKING:
    from ..training.recipe import Recipe


def add_commands(commands: argparse._SubParsersAction) -> None:
    """world, train, pack, evaluate, card, gallery, reconstruct"""
    world = commands.add_parser("world", help="a contact sheet of the procedural training objects")
    world.set_defaults(command=_world)
    world.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    world.add_argument("--family", help="only this one (default: all)")
    world.add_argument("--seed", type=int, default=0, help="of the first object (default 0)")
    world.add_argument("--count", type=positive, default=4, help="objects of each family (default 4)")
    world.add_argument("--columns", type=positive, default=12, help="objects in a row (default 12)")
    world.add_argument("--size", type=positive, default=128, help="pixels a side of each object (default 128)")

    train = commands.add_parser("train", help="train or fine-tune the networks; one card, or several under torchrun")
    train.set_defaults(command=_train)
    train.add_argument("recipe", metavar="CONFIG", help="a .json file, or a recipe of the package: mini, finetune")
    train.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="the run's folder")
    train.add_argument("--resume", action="store_true", help="continue the run in that folder")
    train.add_argument("--stage", action="append", metavar="NAME", help="only this stage of the recipe (repeatable)")
    train.add_argument("--objects", action="store_true", help="only fill the recipe's cache of objects")
    train.add_argument("--latents", action="store_true", help="only encode the flows' datasets")
    train.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE", help="change the recipe")
    train.add_argument("--device", help="cpu, cuda … (default: the best available)")
    train.add_argument("--beside", metavar="DEVICES", help="cuda:0,cuda:1 …: run independent stages concurrently")

    pack = commands.add_parser("pack", help="export a run's networks as a checkpoint in the published layout")
    pack.set_defaults(command=_pack)
    pack.add_argument("run", type=Path, metavar="RUN")
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")

    _add_evaluate(commands)

    card = commands.add_parser("card", help="write a checkpoint's model card, its README.md")
    card.set_defaults(command=_card)
    card.add_argument("checkpoint", type=Path, metavar="DIR")
    card.add_argument("--recipe", default="mini", metavar="CONFIG", help="the recipe of its run (default mini)")
    rows = {"type": Path, "nargs": "+", "metavar": "ROWS.csv"}
    card.add_argument("--instances", required=True, help="rows of evaluate -o, of all shards", **rows)
    card.add_argument("--families", help="rows of evaluate --split families -o, likewise", **rows)

    gallery = commands.add_parser("gallery", help="pictures of held-out objects beside a checkpoint's results")
    gallery.set_defaults(command=_gallery)
    gallery.add_argument("model", metavar="CHECKPOINT", help=CHECKPOINT)
    gallery.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    gallery.add_argument(
        "--object", action="append", metavar="FAMILY/SEED", help="this object, by its name in evaluate's rows"
    )
    gallery.add_argument(
        "--objects", type=positive, default=6, help="without --object: the first N of evaluate (default 6)"
    )
    gallery.add_argument("--split", choices=("instances", "families"), default="instances", help="what is held out")
    gallery.add_argument("--steps", type=positive, help="steps of every sampler (default: the checkpoint's)")
    gallery.add_argument("--seed", type=int, default=0, help="of the noise (default 0, as in evaluate)")
    gallery.add_argument("--size", type=positive, default=256, help="pixels a side of each view (default 256)")
    gallery.add_argument("--device", help="cpu, cuda … (default: the best available)")

    rebuilt = commands.add_parser("reconstruct", help="encode and decode a mesh by a checkpoint's VAEs")
    rebuilt.set_defaults(command=_reconstruct)
    rebuilt.add_argument("model", metavar="CHECKPOINT", help=f"{CHECKPOINT}; with encoders")
    rebuilt.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    rebuilt.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.glb")
    rebuilt.add_argument(
        "--picture", type=Path, metavar="OUT.png", help="four views, the mesh above its reconstruction"
    )
    rebuilt.add_argument(
        "--resolution", type=voxels_a_side, default=512, help="voxels a side, a multiple of 16 (default 512)"
    )
    rebuilt.add_argument("--size", type=positive, default=256, help="pixels a side of each view (default 256)")
    rebuilt.add_argument("--device", help="cpu, cuda … (default: the best available)")


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    evaluate = commands.add_parser("evaluate", help="evaluate a checkpoint on held-out objects")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("model", metavar="CHECKPOINT", help=CHECKPOINT)
    evaluate.add_argument("--objects", type=positive, default=200, help="number of objects (default 200)")
    evaluate.add_argument("--split", choices=("instances", "families"), default="instances", help="what is held out")
    evaluate.add_argument("--steps", type=positive, help="steps of every sampler (default: the checkpoint's)")
    evaluate.add_argument("-o", "--output", type=Path, metavar="OUT.csv", help="a row for each object, as it is done")
    evaluate.add_argument("--resume", action="store_true", help="keep the rows in OUT.csv and make the others")
    evaluate.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="only each N-th object, from I")
    evaluate.add_argument(
        "--camera",
        choices=("guessed", "given", "both"),
        help="whether a checkpoint that projects is told the picture's camera (default: both ways, if it does)",
    )
    evaluate.add_argument("--workers", type=int, help="processes that make objects ahead (default: by the cores)")
    evaluate.add_argument("--device", help="cpu, cuda … (default: the best available)")


def _world(arguments: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from ...o_voxel.render import save_picture
    from ..training.world import FAMILIES
    from ..training.world.samples import contact_sheet

    check_output(arguments.output, PICTURE_SUFFIXES)
    families = list(FAMILIES) if arguments.family is None else [arguments.family]
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    sheet = contact_sheet(families, seeds, arguments.size, arguments.columns)
    save_picture(arguments.output, torch.from_numpy(np.asarray(sheet).copy()))
    print(f"{arguments.output}: {len(families) * len(seeds)} objects")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from ..training.loop.distributed import init_distributed
    from ..training.recipe import load_recipe
    from ..training.runs.run import Run
    from ..training.tasks import TASKS

    recipe = load_recipe(arguments.recipe, TASKS, arguments.set)
    if arguments.beside:
        return _train_concurrently(recipe, arguments)
    with init_distributed(arguments.device) as context:
        run = Run.open(recipe, arguments.output, context, resume=arguments.resume)
        on_progress = metric_bars() if context.is_main else None
        try:
            if arguments.objects or arguments.latents:
                (run.make_objects if arguments.objects else run.make_latents)(arguments.stage, on_progress)
                return 0
            checkpoint = run.train(arguments.stage, on_progress)
        except KeyboardInterrupt:
            print(f"trellis2: interrupted; continue with --resume -o {arguments.output}", file=sys.stderr)
            return 130
        if context.is_main:
            print(f"wrote {checkpoint}")
    return 0


def _train_concurrently(recipe: Recipe, arguments: argparse.Namespace) -> int:
    from ..training.runs.concurrent_stages import train_concurrently

    if arguments.stage or arguments.objects or arguments.latents or arguments.device:
        raise ValueError("--beside: it runs all stages; remove --stage, --objects, --latents and --device")
    devices = arguments.beside.split(",")
    try:
        checkpoint = train_concurrently(
            recipe, arguments.output, devices, resume=arguments.resume, on_progress=metric_bars()
        )
    except KeyboardInterrupt:
        print(f"trellis2: interrupted; continue with --resume -o {arguments.output}", file=sys.stderr)
        return 130
    print(f"wrote {checkpoint}")
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    from ..training.recipe import load_recipe
    from ..training.runs.export import pack
    from ..training.tasks import TASKS

    recipe = load_recipe(arguments.run / "recipe.json", TASKS)
    print(f"wrote {pack(recipe, arguments.run, arguments.output)}")
    return 0


def _shard(text: str) -> tuple[int, int]:
    """(I, N) of "I/N"."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, such as 1/2, got {text!r}")
    return int(number), int(count)


def _evaluate(arguments: argparse.Namespace) -> int:
    from ..pipeline import Pipeline
    from ..runtime.residency import KeepLoaded, default_device
    from ..training.data.stream import default_workers
    from ..training.evaluation import evaluate as module

    check_device(arguments.device)
    if arguments.output:
        check_output(arguments.output, (".csv",))
    pipeline = Pipeline.load(arguments.model, KeepLoaded(arguments.device or default_device()))
    camera = arguments.camera or ("guessed" if pipeline.config.crop is None else "both")
    cameras = module.CAMERAS if camera == "both" else (camera,)
    number, count = arguments.shard
    cases = module.held_out(arguments.split, arguments.objects)[number - 1 :: count]
    rows = module.read_rows(arguments.output) if arguments.resume and arguments.output.exists() else []
    if arguments.output:
        module.write_rows(arguments.output, rows)

    def on_rows(own: list[module.Row]) -> None:
        if arguments.output:
            module.write_rows(arguments.output, own, add=True)
        for row in own:
            figures = (f"{key} {row[key]:.3g}" for key in (*module.COLUMNS, *module.TIMES))
            print(f"{row['name']:<24} {row['camera']:<8}", *figures, row["problem"], sep="  ", flush=True)

    there = {(row["name"], row["camera"]) for row in rows}
    missing: dict[tuple[str, ...], list[module.WorldCase]] = {}
    for case in cases:
        wanted = tuple(camera for camera in cameras if (case.name, camera) not in there)
        missing.setdefault(wanted, []).append(case)
    missing.pop((), None)
    workers = default_workers(count) if arguments.workers is None else arguments.workers
    try:
        for wanted, own in missing.items():
            options = {"steps": arguments.steps, "cameras": wanted, "workers": min(workers, len(own))}
            rows += module.evaluate(pipeline, own, **options, on_rows=on_rows)
    except KeyboardInterrupt:
        print("trellis2: interrupted; continue with --resume, if with -o", file=sys.stderr)
        return 130
    print(module.table(rows))
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from ..training.evaluation.evaluate import read_rows
    from ..training.evaluation.model_card import write_card

    paths = {"instances": arguments.instances, "families": arguments.families}
    rows = {split: [row for file in files for row in read_rows(file)] for split, files in paths.items() if files}
    print(f"wrote {write_card(arguments.recipe, arguments.checkpoint, rows)}")
    return 0


def _gallery(arguments: argparse.Namespace) -> int:
    from ..pipeline import Pipeline
    from ..runtime.residency import KeepLoaded, default_device
    from ..training.evaluation.evaluate import held_out
    from ..training.evaluation.gallery import SHEET, exhibits, write_gallery

    check_device(arguments.device)
    check_folder(arguments.output)
    pipeline = Pipeline.load(arguments.model, KeepLoaded(arguments.device or default_device()))
    names = arguments.object or [case.name for case in held_out(arguments.split, arguments.objects)]
    shown = exhibits(pipeline, names, tile=arguments.size, steps=arguments.steps, seed=arguments.seed)
    for exhibit in write_gallery(arguments.output, shown):
        print(f"{exhibit.name}: {exhibit.problem or 'made'}")
    print(f"{arguments.output / SHEET}: {len(names)} objects")
    return 0


def _reconstruct(arguments: argparse.Namespace) -> int:
    from ...o_voxel.core.grid import Grid
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import save_mesh
    from ...o_voxel.values import to_device
    from ...o_voxel.voxels.from_mesh import fitted, voxelize
    from ...o_voxel.voxels.sample import colored, vertex_materials
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh
    from ..pipeline import Pipeline
    from ..runtime.residency import KeepLoaded, default_device
    from ..training.evaluation.evaluate import SURFACE_DISTANCE, VAE_DISTANCE
    from ..training.evaluation.gallery import write_comparison
    from ..training.evaluation.metrics import f_score

    check_output(arguments.output, MESH_SUFFIXES)
    if arguments.picture:
        check_output(arguments.picture, (".png",))
    check_device(arguments.device)
    loaded = fitted(load_textured_mesh(arguments.mesh, on_warning=warn(arguments.mesh)))
    pipeline = Pipeline.load(arguments.model, KeepLoaded(arguments.device or default_device()))
    mesh = to_device(loaded, pipeline.residency.device)
    voxels = voxelize(mesh, Grid.cube(arguments.resolution))
    rebuilt = pipeline.reconstruct(voxels)
    save_mesh(arguments.output, colored(rebuilt.mesh, vertex_materials(rebuilt.mesh, rebuilt.field)))
    if arguments.picture:
        write_comparison(arguments.picture, mesh, rebuilt, arguments.size)
    true = dual_grid_to_mesh(voxels.dual_grid)
    for distance in (VAE_DISTANCE, SURFACE_DISTANCE):
        print(f"F-score at {distance:.1%} of the cube: {f_score(rebuilt.mesh, true, distance):.3f}")
    print(f"{arguments.output}: {len(rebuilt.mesh.vertices):,} vertices, {len(rebuilt.mesh.faces):,} faces")
    return 0

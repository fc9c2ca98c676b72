"""The command line: what users run without ComfyUI. The only module that prints."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import pkgutil
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# What a user can mend: shown as one message. Anything else is ours, and shows its traceback.
USER_ERRORS = (ValueError, FileNotFoundError, TypeError, MemoryError)
RESOLUTIONS = {"512": "512", "1024": "1024_cascade", "1536": "1536_cascade", "2048": "2048_cascade"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for an error that the user can mend, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except USER_ERRORS as error:
        print(f"trellis2: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("trellis2: interrupted; nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trellis2", description="TRELLIS.2: images to 3D meshes with PBR materials.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="images to GLB files")
    generate.set_defaults(command=_generate)
    generate.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture with a transparent background"
    )
    generate.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.glb", help="_1, _2 … for several")
    generate.add_argument("--model", default="microsoft/TRELLIS.2-4B", help="a folder, or a hub repository")
    generate.add_argument("--resolution", choices=RESOLUTIONS, default="1024", help="voxels a side (default 1024)")
    generate.add_argument("--views", action="store_true", help="the images are views of one object")
    generate.add_argument("--view-mode", choices=("average", "cycle"), default="average", help="how views are combined")
    generate.add_argument("--seed", type=int, default=42, help="starting noise (default 42)")
    generate.add_argument("--steps", type=int, help="steps of every sampler (default: the checkpoint's)")
    generate.add_argument(
        "--vram",
        choices=("auto", "high", "low"),
        default="auto",
        help="networks on the card: all (high), as little as pays (low), or by what it has (default)",
    )
    generate.add_argument(
        "--quantization",
        choices=("none", "int8", "fp8"),
        default="none",
        help="number format of the flow networks' large products: half the memory, faster, a small change",
    )
    generate.add_argument(
        "--step-cache", action="store_true", help="forecast every second step: near half the time, a small change"
    )
    generate.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: what is there)")

    voxels = commands.add_parser("voxelize", help="a mesh file to an O-Voxel file")
    voxels.set_defaults(command=_voxelize)
    voxels.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    voxels.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.vxz", help=".vxz, .npz or .ply")
    voxels.add_argument("--resolution", type=int, default=512, help="voxels a side (default 512)")
    voxels.add_argument("--no-materials", action="store_true", help="the surface only")

    convert = commands.add_parser("convert", help="a mesh file to another format")
    convert.set_defaults(command=_convert)
    convert.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    convert.add_argument("--scale", type=float, default=1.0, help="units of the file for one of the mesh (default 1)")
    convert.add_argument("--images", choices=("png", "jpeg", "webp"), default="png", help="textures of a .glb")
    convert.add_argument("--max-texture", type=int, help="the most texels a side")
    convert.add_argument("--quantize", action="store_true", help="a .glb's geometry in small integers")
    convert.add_argument("--draco", action="store_true", help="a .glb's geometry by Draco")
    convert.add_argument("--max-bytes", type=int, help="the most that a .glb may take")

    render = commands.add_parser("render", help="a picture of a mesh or O-Voxel file, from several sides")
    render.set_defaults(command=_render)
    render.add_argument("file", type=Path, metavar="FILE", help="a mesh, or a .vxz")
    render.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    render.add_argument("--size", type=int, default=384, help="pixels a side of each view (default 384)")

    world = commands.add_parser("world", help="a picture of objects that training draws on")
    world.set_defaults(command=_world)
    world.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    world.add_argument("--family", help="only this one (default: all)")
    world.add_argument("--seed", type=int, default=0, help="of the first object (default 0)")
    world.add_argument("--count", type=int, default=4, help="objects of each family (default 4)")
    world.add_argument("--columns", type=int, default=12, help="objects in a row (default 12)")
    world.add_argument("--size", type=int, default=128, help="pixels a side of each object (default 128)")

    doctor = commands.add_parser("doctor", help="what was found here, and what each op would use")
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--device", help="the device to ask about (default: what is there)")

    tiny = commands.add_parser("make-tiny", help="write a tiny random checkpoint in the published layout")
    tiny.set_defaults(command=_make_tiny)
    tiny.add_argument("folder", type=Path, metavar="DIR")
    tiny.add_argument("--seed", type=int, default=0)
    _add_mesh(commands)
    _add_training(commands)
    return parser


def _add_mesh(commands: argparse._SubParsersAction) -> None:
    mesh = commands.add_parser("mesh", help="an O-Voxel file to a GLB")
    mesh.set_defaults(command=_mesh)
    mesh.add_argument("voxels", type=Path, metavar="VOXELS", help=".vxz, .npz or .ply")
    mesh.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.glb")
    mesh.add_argument("--resolution", type=int, help="voxels a side of its grid (default: the power of two that fits)")
    mesh.add_argument("--tile-size", type=int, help="work in slabs of so many voxels")


def _add_training(commands: argparse._SubParsersAction) -> None:
    train = commands.add_parser("train", help="train or fine-tune the networks; one card, or several under torchrun")
    train.set_defaults(command=_train)
    train.add_argument("recipe", metavar="CONFIG", help="a .json file, or a recipe of ours: mini, finetune")
    train.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="the run's folder")
    train.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    train.add_argument("--stage", action="append", metavar="NAME", help="only this stage of the recipe (repeatable)")
    train.add_argument("--objects", action="store_true", help="only fill the recipe's cache of objects")
    train.add_argument("--set", action="append", default=[], metavar="KEY.KEY=VALUE", help="change the recipe")
    train.add_argument("--device", help="cpu, cuda … (default: what is there)")

    pack = commands.add_parser("pack", help="a run's networks as a checkpoint in the published layout")
    pack.set_defaults(command=_pack)
    pack.add_argument("run", type=Path, metavar="RUN")
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")

    evaluate = commands.add_parser("evaluate", help="how well a checkpoint makes objects that it has not seen")
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("model", metavar="CHECKPOINT", help="a folder, or a hub repository")
    evaluate.add_argument("--objects", type=int, default=200, help="how many (default 200)")
    evaluate.add_argument("--split", choices=("instances", "families"), default="instances", help="what is held out")
    evaluate.add_argument("--steps", type=int, help="steps of every sampler (default: the checkpoint's)")
    evaluate.add_argument("-o", "--output", type=Path, metavar="OUT.csv", help="a row for each object")
    evaluate.add_argument("--device", help="cpu, cuda … (default: what is there)")


def _generate(arguments: argparse.Namespace) -> int:
    from PIL import Image, ImageOps

    from ..o_voxel.formats.glb import vertex_materials, write_glb
    from .image import prepare_image
    from .pipeline import Pipeline
    from .residency import default_device
    from .streaming import choose_residency

    pictures = []
    for path in arguments.images:
        with Image.open(path) as image:
            pictures.append(prepare_image(ImageOps.exif_transpose(image)))
    residency = choose_residency(arguments.vram, arguments.device or default_device())
    pipeline = Pipeline.load(arguments.model, residency, quantization=arguments.quantization)
    assets = pipeline.run(
        [pictures] if arguments.views else [[picture] for picture in pictures],
        pipeline_type=RESOLUTIONS[arguments.resolution],
        seed=arguments.seed,
        steps=arguments.steps,
        view_mode=arguments.view_mode,
        step_cache=arguments.step_cache,
        progress=_bars(),
    )
    for path, asset in zip(_outputs(arguments.output, len(assets)), assets, strict=True):
        materials = None if asset.field is None else vertex_materials(asset.mesh, asset.field)
        write_glb(path, asset.mesh, materials)
        print(f"{path}: {len(asset.mesh.vertices):,} vertices, {len(asset.mesh.faces):,} faces")
    return 0


def _voxelize(arguments: argparse.Namespace) -> int:
    from ..o_voxel.convert import fitted, to_records, voxelize
    from ..o_voxel.formats.mesh_files import load_textured_mesh
    from ..o_voxel.formats.voxels import write_voxels
    from ..o_voxel.grid import Grid

    mesh = fitted(load_textured_mesh(arguments.mesh))
    report = _bars()
    voxels = voxelize(
        mesh,
        Grid.cube(arguments.resolution),
        materials=not arguments.no_materials,
        progress=lambda fraction: report("voxelize", fraction),
    )
    write_voxels(arguments.output, to_records(voxels))
    print(f"{arguments.output}: {len(voxels.dual_grid.coords):,} voxels")
    return 0


def _mesh(arguments: argparse.Namespace) -> int:
    from ..o_voxel.convert import from_records
    from ..o_voxel.dual_grid import dual_grid_to_mesh
    from ..o_voxel.formats.glb import vertex_materials, write_glb
    from ..o_voxel.formats.voxels import read_voxels
    from ..o_voxel.grid import Grid

    grid = Grid.cube(arguments.resolution) if arguments.resolution else None
    voxels = from_records(read_voxels(arguments.voxels), grid)
    mesh = dual_grid_to_mesh(voxels.dual_grid, arguments.tile_size)
    write_glb(arguments.output, mesh, None if voxels.field is None else vertex_materials(mesh, voxels.field))
    print(f"{arguments.output}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from ..o_voxel.formats.mesh_files import load_textured_mesh
    from ..o_voxel.formats.save import SaveOptions, save_mesh

    options = SaveOptions(
        scale=arguments.scale,
        image_format=arguments.images,
        max_texture=arguments.max_texture,
        quantize=arguments.quantize,
        draco=arguments.draco,
        max_bytes=arguments.max_bytes,
    )
    saved = save_mesh(arguments.output, load_textured_mesh(arguments.mesh), options)
    changes = "".join(f"; {change}" for change in saved.changes)
    print(f"{saved.path}: {saved.size:,} bytes{changes}")
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from ..o_voxel.convert import from_records
    from ..o_voxel.dual_grid import dual_grid_to_mesh
    from ..o_voxel.formats.glb import vertex_materials
    from ..o_voxel.formats.mesh_files import load_textured_mesh
    from ..o_voxel.formats.voxels import read_voxels
    from ..o_voxel.render import contact_sheet, mesh_scene, save_png

    if arguments.file.suffix.lower() in (".vxz", ".npz"):
        voxels = from_records(read_voxels(arguments.file))
        mesh = dual_grid_to_mesh(voxels.dual_grid)
        material = None if voxels.field is None else vertex_materials(mesh, voxels.field)
        scene = mesh_scene(mesh, material=material)
    else:
        loaded = load_textured_mesh(arguments.file)
        colors = None if loaded.vertex_colors is None else loaded.vertex_colors[:, :3]
        scene = mesh_scene(loaded.mesh, colors=colors)
    print(f"{save_png(arguments.output, contact_sheet(scene, arguments.size))}")
    return 0


def _world(arguments: argparse.Namespace) -> int:
    from .training.world import FAMILIES
    from .training.world.sheet import contact_sheet

    families = list(FAMILIES) if arguments.family is None else [arguments.family]
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    contact_sheet(families, seeds, arguments.size, arguments.columns).save(arguments.output)
    print(f"{arguments.output}: {len(families) * len(seeds)} objects")
    return 0


def _outputs(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{i + 1}{path.suffix}") for i in range(count)]


def _bars() -> Callable[[str, float], None]:
    """A progress bar a stage, on standard error."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, fraction: float) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=100, desc=f"{stage:<10}", bar_format="{desc} {percentage:3.0f}% |{bar}| {elapsed}")
        bars[stage].update(round(100 * fraction) - bars[stage].n)
        if fraction >= 1:
            bars[stage].close()

    return report


def _metric_bars() -> Callable[[str, float, Mapping[str, float]], None]:
    """A progress bar a stage, with its last loss."""
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(stage: str, fraction: float, metrics: Mapping[str, float]) -> None:
        if stage not in bars:
            bars[stage] = tqdm(total=1.0, desc=f"{stage:<16}", bar_format="{desc}{percentage:5.1f}% |{bar}| {postfix}")
        bars[stage].update(fraction - bars[stage].n)
        bars[stage].set_postfix({key: f"{metrics[key]:.4g}" for key in ("step", "loss", "seconds") if key in metrics})
        if fraction >= 1:
            bars[stage].close()

    return report


def _doctor(arguments: argparse.Namespace) -> int:
    import torch

    from ..o_voxel.ops.backend import explain
    from .residency import default_device, default_dtype

    device = torch.device(arguments.device or default_device())
    print(f"python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "triton", "numba", "safetensors", "huggingface_hub", "numpy", "scipy", "pillow"):
        print(f"{name:<16}{_version(name)}")
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "unknown"
    print(f"{'device':<16}{device} ({hardware}), torsos in {default_dtype(device) or 'the published formats'}")
    for package in ("o_voxel", "trellis2"):
        operations = importlib.import_module(f"...{package}.ops", __name__)
        for _, name, is_package in pkgutil.iter_modules(operations.__path__):
            if not is_package:
                continue
            choices = importlib.import_module(f"{operations.__name__}.{name}").CHOICES
            states = ", ".join(f"{choice}: {state}" for choice, state in explain(choices, device).items())
            print(f"{package}.{name:<26}{states}")
    return 0


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _make_tiny(arguments: argparse.Namespace) -> int:
    from .tiny import make_tiny

    print(f"wrote {make_tiny(arguments.folder, arguments.seed)}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from .training.distributed import join
    from .training.recipe import load_recipe
    from .training.run import Run

    recipe = load_recipe(arguments.recipe, arguments.set)
    with join(arguments.device) as team:
        run = Run.open(recipe, arguments.output, team, resume=arguments.resume)
        report = _metric_bars() if team.leads else None
        try:
            if arguments.objects:
                run.make_objects(report)
                return 0
            checkpoint = run.train(arguments.stage, report)
        except KeyboardInterrupt:
            print(f"trellis2: interrupted; go on with --resume -o {arguments.output}", file=sys.stderr)
            return 130
        if team.leads:
            print(f"wrote {checkpoint}")
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    from .training.pack import pack
    from .training.recipe import load_recipe

    print(f"wrote {pack(load_recipe(arguments.run / 'recipe.json'), arguments.run, arguments.output)}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from .pipeline import Pipeline
    from .residency import KeepLoaded, default_device
    from .training.evaluate import evaluate, held_out, table, write_rows

    pipeline = Pipeline.load(arguments.model, KeepLoaded(arguments.device or default_device()))
    report = _bars()
    rows = evaluate(
        pipeline,
        held_out(arguments.split, arguments.objects),
        steps=arguments.steps,
        progress=lambda fraction: report(arguments.split, fraction),
    )
    if arguments.output:
        write_rows(arguments.output, rows)
    print(table(rows))
    return 0

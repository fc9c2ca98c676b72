"""The commands that make objects: generate, images to mesh files, and decode, saved latents to mesh files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..batch.rows import RESOLUTIONS
from .checks import LATENT_SUFFIXES, MESH_SUFFIXES, check_device, check_file, check_output, positive, scale
from .meshes import add_asset_options, asset_options
from .pictures import add_background, cut_pictures
from .shared import CHECKPOINT, add_attention, chosen_backends, progress_bars
from .views import VIEW, view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from ..checkpoint.config import PipelineConfig
    from ..image.views import ViewBlend, ViewDirection
    from ..projection.camera import ViewRig
    from ..values import Asset


def add_commands(commands: argparse._SubParsersAction) -> None:
    """generate, decode"""
    generate = commands.add_parser("generate", help="images to mesh files")
    generate.set_defaults(command=_generate)
    generate.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="a picture of an object; a plain background is removed"
    )
    generate.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="OUT",
        help=".glb, .obj, .ply or .stl; _1, _2 … added for several",
    )
    add_background(generate)
    add_sampling(generate)
    _add_views(generate)
    generate.add_argument(
        "--save-latents", type=Path, metavar="FILE", help="also write what was sampled, a .safetensors, for decode"
    )
    generate.add_argument(
        "--from-latents",
        type=Path,
        metavar="FILE",
        help="keep the structure and shape of this file and sample what follows: another texture, or a cascade to "
        "--resolution",
    )
    add_asset_options(generate, None, "make finished assets (default: the decoded surface with vertex colours)")
    generate.add_argument(
        "--project-picture",
        action="store_true",
        help="with --preset: put the pictures' own detail on the texture of the sides that they show",
    )
    generate.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best available)")
    _add_decode(commands)


def add_sampling(command: argparse.ArgumentParser) -> None:
    """Adds the checkpoint, the settings of its samplers, and what they compute with; of generate and batch."""
    command.add_argument("--model", default="microsoft/TRELLIS.2-4B", help=CHECKPOINT)
    command.add_argument("--resolution", choices=RESOLUTIONS, help="voxels a side (default: the model's own)")
    command.add_argument("--seed", type=int, default=42, help="starting noise (default 42)")
    command.add_argument("--steps", type=positive, help="steps of every sampler (default: the checkpoint's)")
    command.add_argument(
        "--vram",
        choices=("auto", "high", "low"),
        default="auto",
        help="networks in GPU memory: all (high), about 1 GiB, streaming the rest (low), or by its size (default)",
    )
    command.add_argument(
        "--quantization",
        choices=("none", "int8", "fp8"),
        default="none",
        help="number format of the flow networks' large products: half the memory, faster, slightly different results",
    )
    add_attention(command)
    command.add_argument(
        "--step-cache",
        action="store_true",
        help="extrapolate every second step: about half the time, slightly different results",
    )
    command.add_argument(
        "--sampler",
        choices=("euler", "heun", "rk4"),
        default="euler",
        help="one (euler, as published), two (heun) or four (rk4) runs of the network a step",
    )


def _add_views(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("--views", action="store_true", help="the images are views of one object")
    generate.add_argument(
        "--view",
        action="append",
        default=[],
        type=view,
        metavar="SIDE=FILE",
        help=f"{VIEW}. IMAGE, if given, is the front",
    )
    generate.add_argument(
        "--view-mode",
        choices=("average", "cycle", "blend"),
        default="average",
        help="how views are combined; blend: each voxel by the views that see it, which needs --view",
    )
    generate.add_argument(
        "--view-temperature",
        type=scale,
        help="of blend: lower follows the best view more, higher nears the average (default 0.2)",
    )
    generate.add_argument(
        "--fov",
        type=scale,
        metavar="DEGREES",
        help="of models that read pictures where they are taken: the camera's horizontal field of view "
        "(default of Pixal3D 49.13, with --view 20; of mini 30)",
    )


def _rig(arguments: argparse.Namespace) -> ViewRig:
    """The cameras of a checkpoint that projects the pictures: the sides of --view, and --fov."""
    from ..projection.camera import ViewRig

    if arguments.view_mode != "average":
        raise ValueError(
            f"--view-mode: expected average, as {arguments.model} projects every view at every step, got "
            f"{arguments.view_mode}"
        )
    return ViewRig(arguments.fov, _sides(arguments) if arguments.view else None)


def _sides(arguments: argparse.Namespace) -> tuple[ViewDirection, ...]:
    """The side of each picture: the front, then those of --view."""
    from ..image.views import NAMED_VIEWS

    return (*[NAMED_VIEWS["front"]] * len(arguments.images), *(direction for direction, _ in arguments.view))


def _add_decode(commands: argparse._SubParsersAction) -> None:
    decode = commands.add_parser("decode", help="a file of saved latents to mesh files")
    decode.set_defaults(command=_decode)
    decode.add_argument("latents", type=Path, metavar="FILE", help="a .safetensors of generate or of Save Latent")
    decode.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    decode.add_argument("--model", help=f"{CHECKPOINT} (default: the one that the file names)")
    decode.add_argument("--vram", choices=("auto", "high", "low"), default="auto", help="as for generate")
    add_asset_options(decode, None, "make finished assets (default: the decoded surface with vertex colours)")
    decode.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best available)")


def _generate(arguments: argparse.Namespace) -> int:
    from ...o_voxel.core.progress import staged
    from ..capabilities import Capabilities
    from ..checkpoint.layouts import Checkpoint
    from ..image import prepare_image
    from ..pipeline import Pipeline
    from ..runtime.residency import default_device
    from ..runtime.streaming import choose_residency
    from ..sampling.cropped import sided_mode
    from ..sampling.latent_files import read_latents, write_latents

    check_output(arguments.output, MESH_SUFFIXES)
    check_device(arguments.device)
    if arguments.step_cache and arguments.sampler != "euler":
        raise ValueError(f"--step-cache: expected --sampler euler, got {arguments.sampler}; leave one of them out")
    if arguments.save_latents:
        check_output(arguments.save_latents, LATENT_SUFFIXES, "--save-latents")
    start = None
    if arguments.from_latents:
        check_file(arguments.from_latents)
        start = read_latents(arguments.from_latents)
    if arguments.project_picture and not arguments.preset:
        raise ValueError("--project-picture: expected --preset too, since only finished assets have textures")
    paths, view_mode = _views(arguments)
    backends = chosen_backends(arguments)
    # Pipeline.load opens it again; here what is wrong is said before the pictures are cut.
    checkpoint = Checkpoint.open(arguments.model, quantization=arguments.quantization)
    projects = checkpoint.config.projects
    if projects:
        view_mode = _rig(arguments)
    elif checkpoint.config.crop is not None and isinstance(view_mode, str):
        view_mode = sided_mode(view_mode, _sides(arguments) if arguments.view else None, arguments.fov)
    if arguments.resolution:
        Capabilities.of(checkpoint.config).check_type(RESOLUTIONS[arguments.resolution])
    # A checkpoint that projects crops the pictures itself, about what its cameras look at.
    crop = (lambda cut: cut) if projects else prepare_image
    made = cut_pictures(paths, arguments.background, lambda cut: (cut, crop(cut)))
    cuts, pictures = (list(images) for images in zip(*made, strict=True))
    residency = choose_residency(arguments.vram, arguments.device or default_device())
    pipeline = Pipeline.load(arguments.model, residency, quantization=arguments.quantization, backends=backends)
    pipeline, bars = pipeline.integrated(arguments.sampler), progress_bars()
    latents = (pipeline if start is None else pipeline.starting_from(start)).sample(
        [pictures] if arguments.views or arguments.view else [[picture] for picture in pictures],
        pipeline_type=RESOLUTIONS.get(arguments.resolution),
        seed=arguments.seed,
        steps=arguments.steps,
        view_mode=view_mode,
        step_cache=arguments.step_cache,
        progress=bars,
    )
    if arguments.save_latents:
        size = write_latents(arguments.save_latents, latents)
        print(f"{arguments.save_latents}: {', '.join(latents.kinds)}, {size:,} bytes")
    _save(
        arguments,
        pipeline.decode(latents.shape, latents.texture, progress=staged(bars, "decode")),
        cuts,
        pipeline.config,
    )
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    from ...o_voxel.core.progress import staged
    from ..checkpoint.builtin import NAME
    from ..checkpoint.layouts import COMFY_ORG, MICROSOFT
    from ..checkpoint.pixal3d import PUBLISHED
    from ..pipeline import Pipeline
    from ..runtime.residency import default_device
    from ..runtime.streaming import choose_residency
    from ..sampling.latent_files import read_latents, summary

    check_output(arguments.output, MESH_SUFFIXES)
    check_device(arguments.device)
    check_file(arguments.latents)
    latents = read_latents(arguments.latents)
    for line in summary(latents):
        print(f"{arguments.latents}: {line}")
    if latents.shape is None:
        raise ValueError(f"{arguments.latents}: expected a shape to decode, got {', '.join(latents.kinds)} alone")
    named = latents.shape.made[-1].model if latents.shape.made else ""
    # A file does not choose what is downloaded.
    model = arguments.model or (named if named in (NAME, MICROSOFT, COMFY_ORG, *PUBLISHED) else None)
    if model is None:
        raise ValueError(f"--model: expected the checkpoint of {arguments.latents}, which names {named or 'none'!r}")
    residency = choose_residency(arguments.vram, arguments.device or default_device())
    decode = Pipeline.load(model, residency).decode
    _save(arguments, decode(latents.shape, latents.texture, progress=staged(progress_bars(), "decode")))
    return 0


def _save(
    arguments: argparse.Namespace,
    assets: list[Asset],
    cuts: Sequence[Image.Image] = (),
    config: PipelineConfig | None = None,
) -> None:
    """Writes each object's mesh as the options of an asset say, and prints what it has. cuts, config: the objects'
    pictures and of what they were made, for --project-picture."""
    from ...o_voxel.bake.projection import FitOptions
    from ...o_voxel.files.meshes.write import save_mesh
    from ..batch.finish import camera_search, finish, triangles_of, vertices_of

    groups = [()] * len(assets)
    if getattr(arguments, "project_picture", False):
        groups = [cuts] if arguments.views or arguments.view else [[cut] for cut in cuts]
    options = asset_options(arguments) if arguments.preset else None
    for path, asset, shown in zip(_outputs(arguments.output, len(assets)), assets, groups, strict=True):
        warnings: list[str] = []
        fitting = FitOptions() if config is None else camera_search(config, len(shown))
        made = finish(
            asset, options, shown, fitting, progress=progress_bars(), on_warning=warnings.append, on_choice=print
        )
        save_mesh(path, made)
        print(f"{path}: {vertices_of(made):,} vertices, {triangles_of(made):,} faces")
        for line in warnings:
            print(f"{path}: {line}")


def _views(arguments: argparse.Namespace) -> tuple[list[Path], str | ViewBlend]:
    """The pictures' files, the front first, and how they are combined."""
    from ..image.views import VIEW_TEMPERATURE, ViewBlend

    if not arguments.images and not arguments.view:
        raise ValueError("generate: expected a picture, got none")
    if arguments.view and len(arguments.images) > 1:
        raise ValueError(f"generate: expected one picture beside --view, the front, got {len(arguments.images)}")
    if arguments.view_mode == "blend" and not arguments.view:
        raise ValueError("--view-mode blend: expected the side of each picture; name it, as in --view back=FILE")
    paths = [*arguments.images, *(path for _, path in arguments.view)]
    if arguments.view_mode != "blend":
        return paths, arguments.view_mode
    return paths, ViewBlend(_sides(arguments), arguments.view_temperature or VIEW_TEMPERATURE)


def _outputs(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{i + 1}{path.suffix}") for i in range(count)]

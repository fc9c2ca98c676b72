"""The generate command: images to mesh files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import MESH_SUFFIXES, check_device, check_file, check_output, positive
from .meshes import add_asset_options, asset_options
from .shared import CHECKPOINT, progress_bars

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND_CHOICES = {"auto": "auto", "plain": "plain background", "rembg": "rembg", "none": "alpha or mask only"}
# What Pillow raises for a picture that it cannot decode.
UNREADABLE = (OSError, SyntaxError, ValueError)
RESOLUTIONS = {"512": "512", "1024": "1024_cascade", "1536": "1536_cascade", "2048": "2048_cascade"}


def add_commands(commands: argparse._SubParsersAction) -> None:
    """generate"""
    generate = commands.add_parser("generate", help="images to mesh files")
    generate.set_defaults(command=_generate)
    generate.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="a picture of an object; a plain background is removed"
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
    generate.add_argument("--model", default="microsoft/TRELLIS.2-4B", help=CHECKPOINT)
    generate.add_argument("--resolution", choices=RESOLUTIONS, help="voxels a side (default: the model's own)")
    generate.add_argument("--views", action="store_true", help="the images are views of one object")
    generate.add_argument("--view-mode", choices=("average", "cycle"), default="average", help="how views are combined")
    generate.add_argument("--seed", type=int, default=42, help="starting noise (default 42)")
    generate.add_argument("--steps", type=positive, help="steps of every sampler (default: the checkpoint's)")
    generate.add_argument(
        "--vram",
        choices=("auto", "high", "low"),
        default="auto",
        help="networks in GPU memory: all (high), about 1 GiB, streaming the rest (low), or by its size (default)",
    )
    generate.add_argument(
        "--quantization",
        choices=("none", "int8", "fp8"),
        default="none",
        help="number format of the flow networks' large products: half the memory, faster, slightly different results",
    )
    generate.add_argument(
        "--step-cache",
        action="store_true",
        help="extrapolate every second step: about half the time, slightly different results",
    )
    add_asset_options(generate, None, "make finished assets (default: the decoded surface with vertex colours)")
    generate.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best available)")


def add_background(command: argparse.ArgumentParser) -> None:
    """Adds the option that says what is cut out of pictures, for `prepared_pictures`."""
    command.add_argument(
        "--background",
        choices=BACKGROUND_CHOICES,
        default="auto",
        help="what is cut out: alpha, else a plain background, else by rembg if installed (auto, default); a plain "
        "background; by rembg; nothing but alpha (none)",
    )


def prepared_pictures(paths: Sequence[Path], background: str) -> list[Image.Image]:
    """Reads pictures, cut out and cropped, and prints what was cut. background: of BACKGROUND_CHOICES.

    Raises ValueError naming the first file, before any is read, that is not there; or that is no picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    from ..image import cut_out, prepare_image

    for path in paths:
        check_file(path)
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as image:
                cut = cut_out(ImageOps.exif_transpose(image), BACKGROUND_CHOICES[background])
                pictures.append(prepare_image(cut.image))
        except UNREADABLE as error:
            text = "expected a picture" if isinstance(error, UnidentifiedImageError) else str(error)
            raise ValueError(f"{path}: {text}") from error
        print(f"{path}: {cut.used}")
        if cut.warning:
            print(f"{path}: not sure: {cut.warning}")
    return pictures


def _generate(arguments: argparse.Namespace) -> int:
    from ...o_voxel.asset import make_asset
    from ...o_voxel.files.meshes.write import save_mesh
    from ...o_voxel.voxels.sample import colored, vertex_materials
    from ..capabilities import Capabilities
    from ..checkpoint.layouts import Checkpoint
    from ..pipeline import Pipeline
    from ..runtime.residency import default_device
    from ..runtime.streaming import choose_residency

    check_output(arguments.output, MESH_SUFFIXES)
    check_device(arguments.device)
    # Pipeline.load opens it again; here what is wrong is said before the pictures are cut.
    checkpoint = Checkpoint.open(arguments.model, quantization=arguments.quantization)
    if arguments.resolution:
        Capabilities.of(checkpoint.config).check_type(RESOLUTIONS[arguments.resolution])
    pictures = prepared_pictures(arguments.images, arguments.background)
    residency = choose_residency(arguments.vram, arguments.device or default_device())
    pipeline = Pipeline.load(arguments.model, residency, quantization=arguments.quantization)
    assets = pipeline.run(
        [pictures] if arguments.views else [[picture] for picture in pictures],
        pipeline_type=RESOLUTIONS.get(arguments.resolution),
        seed=arguments.seed,
        steps=arguments.steps,
        view_mode=arguments.view_mode,
        step_cache=arguments.step_cache,
        progress=progress_bars(),
    )
    for path, asset in zip(_outputs(arguments.output, len(assets)), assets, strict=True):
        warnings: list[str] = []
        if arguments.preset:
            options = asset_options(arguments)
            finished = make_asset(
                asset.mesh, asset.field, options, progress=progress_bars(), on_warning=warnings.append, on_choice=print
            )
            mesh = finished.mesh
            save_mesh(path, finished)
        else:
            mesh = asset.mesh
            save_mesh(path, mesh if asset.field is None else colored(mesh, vertex_materials(mesh, asset.field)))
        print(f"{path}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
        for line in warnings:
            print(f"{path}: {line}")
    return 0


def _outputs(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}_{i + 1}{path.suffix}") for i in range(count)]

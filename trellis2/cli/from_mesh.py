"""The texture and refine commands: a mesh file and a picture to a mesh file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import MESH_SUFFIXES, check_device, check_file, check_output, fraction, positive, voxels_a_side
from .pictures import add_background, cut_pictures
from .shared import CHECKPOINT, add_attention, chosen_backends, progress_bars, warn

if TYPE_CHECKING:
    from ..from_mesh import FromMesh
    from ..pipeline import Pipeline
    from ..values import ImageCondition

TEXTURED_SUFFIXES = (".glb", ".obj")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """texture, refine"""
    texture = commands.add_parser("texture", help="paint a mesh file as a picture says; its geometry and UVs stay")
    texture.set_defaults(command=_texture)
    _add_inputs(texture, "OUT.glb", ".glb or .obj")
    texture.add_argument(
        "--texture-size", type=positive, default=2048, help="texels a side, of each material (default 2048)"
    )
    texture.add_argument(
        "--supersample", type=int, choices=(1, 2, 4), default=1, help="samples along a texel's side (default 1)"
    )

    texture.add_argument(
        "--unwrap-shared",
        action="store_true",
        help="unwrap materials whose faces share texels, as mirrored parts do (default: they share one picture)",
    )

    refine = commands.add_parser("refine", help="a mesh file's shape sampled again, as a picture says")
    refine.set_defaults(command=_refine)
    _add_inputs(refine, "OUT", ".glb, .obj, .ply or .stl")
    refine.add_argument(
        "--strength",
        type=fraction,
        default=0.5,
        help="how much is made anew, 0 to 1: 0 keeps the shape, 1 keeps only where it is (default 0.5)",
    )
    refine.add_argument("--no-texture", action="store_true", help="the shape alone, without materials")


def _add_inputs(command: argparse.ArgumentParser, output: str, formats: str) -> None:
    command.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl, of any size")
    command.add_argument("image", type=Path, metavar="IMAGE", help="a picture of the object as it is to look")
    command.add_argument("-o", "--output", type=Path, required=True, metavar=output, help=formats)
    add_background(command)
    command.add_argument("--model", default="microsoft/TRELLIS.2-4B", help=f"{CHECKPOINT}; with a shape encoder")
    command.add_argument(
        "--resolution", type=voxels_a_side, help="voxels a side, 512 or more (default: the model's own, up to 1024)"
    )
    command.add_argument("--seed", type=int, default=42, help="starting noise (default 42)")
    command.add_argument("--steps", type=positive, help="steps of the samplers (default: the checkpoint's)")
    command.add_argument(
        "--vram", choices=("auto", "high", "low"), default="auto", help="see generate (default: by the card's size)"
    )
    add_attention(command)
    command.add_argument("--device", help="cpu, cuda, cuda:1, mps … (default: the best available)")


def _texture(arguments: argparse.Namespace) -> int:
    from ...o_voxel.bake.options import BakeOptions
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import save_mesh
    from ..from_mesh import texture_mesh

    check_output(arguments.output, TEXTURED_SUFFIXES)
    options = BakeOptions(resolution=arguments.texture_size, supersample=arguments.supersample)
    pipeline, settings, condition = _opened(arguments)
    settings = replace(settings, unwrap_shared=arguments.unwrap_shared)
    mesh = load_textured_mesh(arguments.mesh, on_warning=warn(arguments.mesh))
    made = texture_mesh(
        pipeline, mesh, condition, settings, options, on_warning=warn(arguments.mesh), progress=progress_bars()
    )
    saved = save_mesh(arguments.output, made)
    print(f"{saved.path}: {len(made.mesh.faces):,} faces, {saved.size:,} bytes")
    return 0


def _refine(arguments: argparse.Namespace) -> int:
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import save_mesh
    from ...o_voxel.voxels.sample import colored, vertex_materials
    from ..from_mesh import refine_mesh

    check_output(arguments.output, MESH_SUFFIXES)
    pipeline, settings, condition = _opened(arguments)
    mesh = load_textured_mesh(arguments.mesh, on_warning=warn(arguments.mesh))
    made = refine_mesh(
        pipeline,
        mesh,
        condition,
        settings,
        strength=arguments.strength,
        texture=not arguments.no_texture,
        progress=progress_bars(),
    )
    surface = made.mesh
    save_mesh(
        arguments.output, surface if made.field is None else colored(surface, vertex_materials(surface, made.field))
    )
    print(f"{arguments.output}: {len(surface.vertices):,} vertices, {len(surface.faces):,} faces")
    return 0


def _opened(arguments: argparse.Namespace) -> tuple[Pipeline, FromMesh, ImageCondition]:
    """The pipeline, the settings and the picture's tokens; what is wrong with files and options is said before."""
    from ..capabilities import image_size_of
    from ..checkpoint.layouts import SHAPE_ENCODER
    from ..from_mesh import FromMesh
    from ..image import prepare_image
    from ..pipeline import Pipeline
    from ..runtime.residency import default_device
    from ..runtime.streaming import choose_residency

    check_file(arguments.mesh)
    check_device(arguments.device)
    residency = choose_residency(arguments.vram, arguments.device or default_device())
    pipeline = Pipeline.load(arguments.model, residency, backends=chosen_backends(arguments))
    pipeline.networks.require(SHAPE_ENCODER)
    resolution = arguments.resolution or pipeline.capabilities.own_resolution
    pipeline.capabilities.check_encoded(resolution)
    pictures = cut_pictures([arguments.image], arguments.background, prepare_image)
    condition = pipeline.condition([pictures], resolution=image_size_of([resolution]))
    return pipeline, FromMesh(resolution, arguments.seed, arguments.steps), condition

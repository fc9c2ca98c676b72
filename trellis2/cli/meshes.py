"""Commands on mesh and voxel files: conversion, finished assets, renderings."""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .checks import (
    MESH_SUFFIXES,
    PICTURE_SUFFIXES,
    VOXEL_SUFFIXES,
    check_device,
    check_file,
    check_output,
    positive,
    scale,
    voxels_a_side,
)
from .shared import progress_bars, warn

if TYPE_CHECKING:
    from ...o_voxel.asset import AssetOptions

# Inputs that hold voxels; a .ply is read as a mesh where a mesh can stand.
VOXELS_ONLY = (".vxz", ".npz")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """voxelize, mesh, asset, convert, render"""
    voxels = commands.add_parser("voxelize", help="a mesh file to an O-Voxel file")
    voxels.set_defaults(command=_voxelize)
    voxels.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    voxels.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.vxz", help=".vxz, .npz or .ply")
    voxels.add_argument("--resolution", type=voxels_a_side, default=512, help="voxels a side (default 512)")
    voxels.add_argument("--no-materials", action="store_true", help="leave materials out")

    mesh = commands.add_parser("mesh", help="an O-Voxel file to a mesh")
    mesh.set_defaults(command=_mesh)
    mesh.add_argument("voxels", type=Path, metavar="VOXELS", help=".vxz, .npz or .ply")
    mesh.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    mesh.add_argument(
        "--resolution", type=voxels_a_side, help="voxels a side of its grid (default: the power of two that fits)"
    )
    mesh.add_argument("--tile-size", type=positive, help="slab thickness in voxels, to save memory")

    asset = commands.add_parser("asset", help="a mesh or O-Voxel file to a simplified, textured mesh")
    asset.set_defaults(command=_asset)
    asset.add_argument("file", type=Path, metavar="FILE", help="a .vxz or .npz, or a mesh, which is voxelized")
    asset.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    add_asset_options(asset, "game high", "defaults of the options below (default game high)")
    asset.add_argument(
        "--resolution", type=voxels_a_side, default=512, help="voxels a side to voxelize a mesh with (default 512)"
    )
    asset.add_argument("--device", help="cpu, cuda … (default: the best available)")
    _add_engine_options(asset)
    asset.add_argument("--lods", type=positive, default=1, help="levels of detail, the mesh included (default 1)")
    asset.add_argument(
        "--lod-ratio", type=float, default=0.5, help="triangles, per one of the level before (default 0.5)"
    )
    asset.add_argument("--collision", type=int, default=0, metavar="HULLS", help="add a convex hull (1) or up to HULLS")
    asset.add_argument(
        "--one-file", action="store_true", help="levels (MSFT_lod) and hulls (UCX_…) in one .glb, not in a file each"
    )

    convert = commands.add_parser("convert", help="a mesh file to another format")
    convert.set_defaults(command=_convert)
    convert.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    _add_engine_options(convert)
    convert.add_argument("--images", choices=("png", "jpeg", "webp"), help="texture format of a .glb (default png)")
    convert.add_argument("--max-texture", type=positive, help="maximum texture size, texels a side")
    convert.add_argument("--quantize", action="store_true", help="store a .glb's geometry as small integers")
    convert.add_argument("--draco", action="store_true", help="compress a .glb's geometry by Draco")
    convert.add_argument("--max-bytes", type=positive, help="maximum size of a .glb in bytes")

    render = commands.add_parser("render", help="render a mesh or O-Voxel file from several sides")
    render.set_defaults(command=_render)
    render.add_argument("file", type=Path, metavar="FILE", help="a mesh, or a .vxz")
    render.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png", help=".png, .jpg or .webp")
    render.add_argument("--size", type=positive, default=384, help="pixels a side of each view (default 384)")


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", type=scale, default=1.0, help="file units per mesh unit (default 1)")
    parser.add_argument(
        "--pivot",
        choices=("as is", "base", "centre"),
        default="as is",
        help="what is put at the origin: floor or middle",
    )
    parser.add_argument("--directx-normals", action="store_true", help="normal maps with y down, green turned over")


def _engine_options(arguments: argparse.Namespace) -> dict[str, object]:
    kind = "directx" if arguments.directx_normals else "opengl"
    return {"scale": arguments.scale, "pivot": arguments.pivot, "normal_maps": kind}


def add_asset_options(parser: argparse.ArgumentParser, preset: str | None, help: str) -> None:
    """Adds the options that `asset_options` reads; `preset` is the default one."""
    presets = ("preview", "game low", "game high", "film", "3D print")
    parser.add_argument("--preset", choices=presets, default=preset, help=help)
    parser.add_argument("--faces", type=positive, help="maximum number of triangles")
    parser.add_argument("--texture-size", type=int, help="texels a side; 0: vertex colours")
    surfaces = ("auto", "cleaned", "hidden removed", "remeshed", "outer shell")
    parser.add_argument("--surface", choices=surfaces, help="processing of the surface (default: the preset's)")


def asset_options(arguments: argparse.Namespace) -> AssetOptions:
    """Returns the preset, with the options given on the command line replaced."""
    from ...o_voxel.asset import PRESETS

    overrides = {name: getattr(arguments, name) for name in ("faces", "texture_size", "surface")}
    return replace(PRESETS[arguments.preset], **{name: value for name, value in overrides.items() if value is not None})


def _voxelize(arguments: argparse.Namespace) -> int:
    from ...o_voxel.core.grid import Grid
    from ...o_voxel.core.progress import staged
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.voxels.read_write import write_voxels
    from ...o_voxel.files.voxels.records import to_records
    from ...o_voxel.voxels.from_mesh import fitted, voxelize

    check_output(arguments.output, VOXEL_SUFFIXES)
    mesh = fitted(load_textured_mesh(arguments.mesh, on_warning=warn(arguments.mesh)))
    voxels = voxelize(
        mesh,
        Grid.cube(arguments.resolution),
        materials=not arguments.no_materials,
        progress=staged(progress_bars(), "voxelize"),
    )
    write_voxels(arguments.output, to_records(voxels))
    print(f"{arguments.output}: {len(voxels.dual_grid.coords):,} voxels")
    return 0


def _mesh(arguments: argparse.Namespace) -> int:
    from ...o_voxel.core.grid import Grid
    from ...o_voxel.files.meshes.write import save_mesh
    from ...o_voxel.files.voxels.read_write import read_voxels
    from ...o_voxel.files.voxels.records import from_records
    from ...o_voxel.voxels.sample import colored, vertex_materials
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh

    check_output(arguments.output, MESH_SUFFIXES)
    check_file(arguments.voxels)
    grid = Grid.cube(arguments.resolution) if arguments.resolution else None
    voxels = from_records(read_voxels(arguments.voxels), grid)
    mesh = dual_grid_to_mesh(voxels.dual_grid, arguments.tile_size)
    save_mesh(arguments.output, mesh if voxels.field is None else colored(mesh, vertex_materials(mesh, voxels.field)))
    print(f"{arguments.output}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
    return 0


def _asset(arguments: argparse.Namespace) -> int:
    from ...o_voxel.asset import make_asset
    from ...o_voxel.core.grid import Grid
    from ...o_voxel.core.progress import staged
    from ...o_voxel.files.meshes.engine import save_for_engine
    from ...o_voxel.files.meshes.options import SaveOptions
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.voxels.read_write import read_voxels
    from ...o_voxel.files.voxels.records import from_records
    from ...o_voxel.lods import LodOptions, make_lods
    from ...o_voxel.mesh.collision import collision_hulls
    from ...o_voxel.values import to_device
    from ...o_voxel.voxels.from_mesh import fitted, voxelize
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh
    from ..runtime.residency import default_device

    check_output(arguments.output, MESH_SUFFIXES)
    check_file(arguments.file)
    check_device(arguments.device)
    options, bars = asset_options(arguments), progress_bars()
    lods, saving = LodOptions(arguments.lods, arguments.lod_ratio), SaveOptions(**_engine_options(arguments))
    device = arguments.device or default_device()
    if arguments.file.suffix.lower() in VOXELS_ONLY:
        voxels = to_device(from_records(read_voxels(arguments.file)), device)
        materials = voxels.field
    else:
        # The voxels give the shape; textures come from the mesh itself, sharper than voxels are.
        mesh = load_textured_mesh(arguments.file, on_warning=warn(arguments.file))
        materials = to_device(fitted(mesh), device)
        grid = Grid.cube(arguments.resolution)
        voxels = voxelize(materials, grid, materials=False, progress=staged(bars, "voxelize"))
    warnings: list[str] = []
    surface = dual_grid_to_mesh(voxels.dual_grid)
    finished = make_asset(surface, materials, options, progress=bars, on_warning=warnings.append, on_choice=print)
    levels = make_lods(finished, lods, progress=staged(bars, "levels of detail"))
    hulls = collision_hulls(finished.mesh, arguments.collision) if arguments.collision else ()
    saved = save_for_engine(
        arguments.output, to_device(levels, "cpu"), to_device(hulls, "cpu"), saving, one_file=arguments.one_file
    )
    for path, mesh in itertools.zip_longest(saved, () if arguments.one_file and len(levels) > 1 else levels):
        triangles = "" if mesh is None else f"{len(mesh.mesh.faces):,} triangles, "
        print(f"{path}: {triangles}{path.stat().st_size:,} bytes")
    for line in warnings:
        print(f"{saved[0]}: {line}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import SaveOptions, save_mesh

    check_output(arguments.output, MESH_SUFFIXES)
    given = {"--images": arguments.images, "--quantize": arguments.quantize, "--draco": arguments.draco}
    if arguments.output.suffix.lower() != ".glb":
        # An .obj has textures of its own.
        given |= {} if arguments.output.suffix.lower() == ".obj" else {"--max-texture": arguments.max_texture}
        for name in (name for name, value in given.items() if value):
            print(f"{arguments.output}: {name} does not apply to this format, and is ignored", file=sys.stderr)
    options = SaveOptions(
        **_engine_options(arguments),
        image_format=arguments.images or "png",
        max_texture=arguments.max_texture,
        quantize=arguments.quantize,
        draco=arguments.draco,
        max_bytes=arguments.max_bytes,
    )
    mesh = load_textured_mesh(arguments.mesh, on_warning=warn(arguments.mesh))
    saved = save_mesh(arguments.output, mesh, options)
    changes = "".join(f"; {change}" for change in saved.changes)
    print(f"{saved.path}: {saved.size:,} bytes{changes}")
    return 0


def _render(arguments: argparse.Namespace) -> int:
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.voxels.read_write import read_voxels
    from ...o_voxel.files.voxels.records import from_records
    from ...o_voxel.render import contact_sheet, mesh_scene, save_picture, textured_scene
    from ...o_voxel.voxels.sample import vertex_materials
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh

    check_output(arguments.output, PICTURE_SUFFIXES)
    check_file(arguments.file)
    if arguments.file.suffix.lower() in VOXELS_ONLY:
        voxels = from_records(read_voxels(arguments.file))
        mesh = dual_grid_to_mesh(voxels.dual_grid)
        material = None if voxels.field is None else vertex_materials(mesh, voxels.field)
        scene = mesh_scene(mesh, material=material)
    else:
        scene = textured_scene(load_textured_mesh(arguments.file, on_warning=warn(arguments.file)))
    print(f"{save_picture(arguments.output, contact_sheet(scene, arguments.size))}")
    return 0

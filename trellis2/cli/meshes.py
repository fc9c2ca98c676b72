"""Commands on mesh and voxel files: conversion, finished assets, renderings."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .shared import progress_bars

if TYPE_CHECKING:
    from ...o_voxel.asset import AssetOptions

VOXEL_SUFFIXES = (".vxz", ".npz")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """voxelize, mesh, asset, convert, render"""
    voxels = commands.add_parser("voxelize", help="a mesh file to an O-Voxel file")
    voxels.set_defaults(command=_voxelize)
    voxels.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    voxels.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.vxz", help=".vxz, .npz or .ply")
    voxels.add_argument("--resolution", type=int, default=512, help="voxels a side (default 512)")
    voxels.add_argument("--no-materials", action="store_true", help="leave materials out")

    mesh = commands.add_parser("mesh", help="an O-Voxel file to a GLB")
    mesh.set_defaults(command=_mesh)
    mesh.add_argument("voxels", type=Path, metavar="VOXELS", help=".vxz, .npz or .ply")
    mesh.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.glb")
    mesh.add_argument("--resolution", type=int, help="voxels a side of its grid (default: the power of two that fits)")
    mesh.add_argument("--tile-size", type=int, help="slab thickness in voxels, to save memory")

    asset = commands.add_parser("asset", help="a mesh or O-Voxel file to a simplified, textured mesh")
    asset.set_defaults(command=_asset)
    asset.add_argument("file", type=Path, metavar="FILE", help="a .vxz or .npz, or a mesh, which is voxelized")
    asset.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    add_asset_options(asset, "game high", "defaults of the options below (default game high)")
    asset.add_argument(
        "--resolution", type=int, default=512, help="voxels a side to voxelize a mesh with (default 512)"
    )
    asset.add_argument("--device", help="cpu, cuda … (default: the best available)")

    convert = commands.add_parser("convert", help="a mesh file to another format")
    convert.set_defaults(command=_convert)
    convert.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj, .ply or .stl")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb, .obj, .ply or .stl")
    convert.add_argument("--scale", type=float, default=1.0, help="file units per mesh unit (default 1)")
    convert.add_argument("--images", choices=("png", "jpeg", "webp"), default="png", help="texture format of a .glb")
    convert.add_argument("--max-texture", type=int, help="maximum texture size, texels a side")
    convert.add_argument("--quantize", action="store_true", help="store a .glb's geometry as small integers")
    convert.add_argument("--draco", action="store_true", help="compress a .glb's geometry by Draco")
    convert.add_argument("--max-bytes", type=int, help="maximum size of a .glb in bytes")

    render = commands.add_parser("render", help="render a mesh or O-Voxel file from several sides")
    render.set_defaults(command=_render)
    render.add_argument("file", type=Path, metavar="FILE", help="a mesh, or a .vxz")
    render.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    render.add_argument("--size", type=int, default=384, help="pixels a side of each view (default 384)")


def add_asset_options(parser: argparse.ArgumentParser, preset: str | None, help: str) -> None:
    """Adds the options that `asset_options` reads; `preset` is the default one."""
    presets = ("preview", "game low", "game high", "film", "3D print")
    parser.add_argument("--preset", choices=presets, default=preset, help=help)
    parser.add_argument("--faces", type=int, help="maximum number of triangles")
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

    mesh = fitted(load_textured_mesh(arguments.mesh))
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
    from ...o_voxel.files.meshes.gltf.glb import write_glb
    from ...o_voxel.files.voxels.read_write import read_voxels
    from ...o_voxel.files.voxels.records import from_records
    from ...o_voxel.voxels.sample import vertex_materials
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh

    grid = Grid.cube(arguments.resolution) if arguments.resolution else None
    voxels = from_records(read_voxels(arguments.voxels), grid)
    mesh = dual_grid_to_mesh(voxels.dual_grid, arguments.tile_size)
    write_glb(arguments.output, mesh, None if voxels.field is None else vertex_materials(mesh, voxels.field))
    print(f"{arguments.output}: {len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces")
    return 0


def _asset(arguments: argparse.Namespace) -> int:
    from ...o_voxel.asset import make_asset
    from ...o_voxel.core.grid import Grid
    from ...o_voxel.core.progress import staged
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import save_mesh
    from ...o_voxel.files.voxels.read_write import read_voxels
    from ...o_voxel.files.voxels.records import from_records
    from ...o_voxel.values import to_device
    from ...o_voxel.voxels.from_mesh import fitted, voxelize
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh
    from ..runtime.residency import default_device

    options, bars = asset_options(arguments), progress_bars()
    device = arguments.device or default_device()
    if arguments.file.suffix.lower() in VOXEL_SUFFIXES:
        voxels = to_device(from_records(read_voxels(arguments.file)), device)
    else:
        mesh = to_device(fitted(load_textured_mesh(arguments.file)), device)
        voxels = voxelize(mesh, Grid.cube(arguments.resolution), progress=staged(bars, "voxelize"))
    warnings: list[str] = []
    surface = dual_grid_to_mesh(voxels.dual_grid)
    finished = make_asset(surface, voxels.field, options, progress=bars, on_warning=warnings.append, on_choice=print)
    saved = save_mesh(arguments.output, finished)
    print(f"{saved.path}: {len(finished.mesh.faces):,} triangles, {saved.size:,} bytes")
    for line in warnings:
        print(f"{saved.path}: {line}")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import SaveOptions, save_mesh

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
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.voxels.read_write import read_voxels
    from ...o_voxel.files.voxels.records import from_records
    from ...o_voxel.render import contact_sheet, mesh_scene, save_png, textured_scene
    from ...o_voxel.voxels.sample import vertex_materials
    from ...o_voxel.voxels.to_mesh import dual_grid_to_mesh

    if arguments.file.suffix.lower() in VOXEL_SUFFIXES:
        voxels = from_records(read_voxels(arguments.file))
        mesh = dual_grid_to_mesh(voxels.dual_grid)
        material = None if voxels.field is None else vertex_materials(mesh, voxels.field)
        scene = mesh_scene(mesh, material=material)
    else:
        scene = textured_scene(load_textured_mesh(arguments.file))
    print(f"{save_png(arguments.output, contact_sheet(scene, arguments.size))}")
    return 0

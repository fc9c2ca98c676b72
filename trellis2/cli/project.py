"""The project command: a picture's detail on the texture of a mesh file."""

from __future__ import annotations

import argparse
from pathlib import Path

from .checks import MESH_SUFFIXES, check_device, check_file, check_output, positive
from .pictures import add_background, cut_pictures
from .shared import progress_bars, warn

MATCHES = ("light", "exposure", "local", "none")


def add_commands(commands: argparse._SubParsersAction) -> None:
    """project"""
    project = commands.add_parser("project", help="a picture's own detail on the texture of a mesh file")
    project.set_defaults(command=_project)
    project.add_argument("mesh", type=Path, metavar="MESH", help="a mesh file with texture coordinates")
    project.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE", help="pictures of it, from any side")
    project.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".glb or .obj")
    add_background(project)
    project.add_argument("--azimuth", type=float, help="of the camera, degrees from the front (default: found)")
    project.add_argument("--elevation", type=float, help="of the camera, degrees (default: found)")
    project.add_argument("--fov", type=float, help="field of view of the object's crop, degrees (default: found)")
    project.add_argument("--min-overlap", type=float, default=0.8, help="least overlap of outlines (default 0.8)")
    project.add_argument(
        "--max-apart",
        type=float,
        default=2.0,
        help="greatest mean distance between outlines, %% of the picture's side (default 2)",
    )
    project.add_argument(
        "--color-match", choices=MATCHES, default="light", help="what is taken out of the picture (default light)"
    )
    project.add_argument("--strength", type=float, default=1.0, help="share of the picture's colour (default 1)")
    project.add_argument("--max-texture", type=positive, default=4096, help="texels a side at most (default 4096)")
    project.add_argument("--preview", type=Path, metavar="PNG", help="write the outline over the first picture")
    project.add_argument("--device", help="cpu, cuda … (default: the best available)")


def _project(arguments: argparse.Namespace) -> int:
    from ...o_voxel.bake.projection import FitOptions, ProjectOptions, overlay
    from ...o_voxel.files.meshes.read import load_textured_mesh
    from ...o_voxel.files.meshes.write import save_mesh
    from ...o_voxel.render import save_picture
    from ...o_voxel.values import to_device
    from ..batch.finish import put_pictures
    from ..runtime.residency import default_device

    check_output(arguments.output, MESH_SUFFIXES)
    check_device(arguments.device)
    for path in (arguments.mesh, *arguments.pictures):
        check_file(path)
    fitting = FitOptions(
        arguments.azimuth, arguments.elevation, arguments.fov, arguments.min_overlap, arguments.max_apart / 100
    )
    options = ProjectOptions(arguments.strength, color_match=arguments.color_match, max_texture=arguments.max_texture)
    mesh = load_textured_mesh(arguments.mesh, on_warning=warn(arguments.mesh))
    mesh = to_device(mesh, arguments.device or default_device())
    cuts = cut_pictures(arguments.pictures, arguments.background, lambda cut: cut)
    out = arguments.output
    made, fits = put_pictures(mesh, cuts, fitting, options, lambda line: print(f"{out}: {line}"), progress_bars())
    if arguments.preview is not None:
        picture, fit = fits[0]
        shown = overlay(mesh.mesh, picture.to(mesh.mesh.vertices.device), fit.camera)
        save_picture(arguments.preview, shown.float() / 255)
    if made is mesh:
        print(f"{arguments.output}: not written, because no picture fits")
        return 1
    print(f"{arguments.output}: {save_mesh(arguments.output, to_device(made, 'cpu')).size:,} bytes")
    return 0

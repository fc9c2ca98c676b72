"""What becomes of a decoded object: a finished asset, or its surface with vertex colours; pictures put on its texture.

The commands generate and decode and every batch end here, so that one by one and together give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from ...o_voxel.asset import AssetOptions, make_asset
from ...o_voxel.bake.projection import CameraFit, FitOptions, Picture, ProjectOptions, project_found
from ...o_voxel.core.progress import StageProgress, staged
from ...o_voxel.material import TexturedMesh
from ...o_voxel.values import Mesh
from ...o_voxel.voxels.sample import colored, vertex_materials
from ..checkpoint.config import PipelineConfig
from ..values import Asset

Say = Callable[[str], None]
PROJECT = "project picture"


def finish(
    asset: Asset,
    options: AssetOptions | None,
    cuts: Sequence[Image.Image] = (),
    fitting: FitOptions = FitOptions(),
    *,
    progress: StageProgress | None = None,
    on_warning: Say | None = None,
    on_choice: Say | None = None,
) -> Mesh | TexturedMesh:
    """Returns what is saved of a decoded object, on its device. options: of `make_asset`; None: the decoded surface.

    cuts: RGBA pictures of the object, cut out, to be put on its texture, where it has one.  fitting: how their cameras
    are found, see `camera_search`.
    on_warning, on_choice: see `make_asset`; on_choice also gets a line on the fit of each picture.
    """
    if options is None:
        mesh, field = asset.mesh, asset.field
        return mesh if field is None else colored(mesh, vertex_materials(mesh, field))
    made = make_asset(asset.mesh, asset.field, options, progress=progress, on_warning=on_warning, on_choice=on_choice)
    if cuts and made.uv is not None:
        say = on_choice or (lambda line: None)
        made, _ = put_pictures(made, cuts, fitting, ProjectOptions(), say, progress)
    return made


def camera_search(config: PipelineConfig, views: int = 1) -> FitOptions:
    """How to find the camera of a picture on the object made of it: models that read a picture where it is taken from
    have the object face it. views: pictures of the object; of several only the first would be in front."""
    faces = views == 1 and (config.projects or config.crop is not None)
    return FitOptions(near_yaw_deg=0.0 if faces else None)


def put_pictures(
    mesh: TexturedMesh,
    cuts: Sequence[Image.Image],
    fitting: FitOptions,
    options: ProjectOptions,
    say: Say,
    progress: StageProgress | None = None,
) -> tuple[TexturedMesh, list[tuple[Picture, CameraFit]]]:
    """Returns `mesh` with the RGBA pictures `cuts` on it, on its device, and the fits, on each of which `say` gets a
    line."""
    pictures = [Picture.cropped(torch.from_numpy(np.array(cut.convert("RGBA")))) for cut in cuts]
    lines: list[str] = []
    bar = staged(progress, PROJECT)
    made, fits = project_found(mesh, pictures, fitting, options, on_warning=lines.append, progress=bar)
    for line in [fit.line() for fit in fits] + lines:
        say(line)
    return made, list(zip(pictures, fits, strict=True))


def triangles_of(made: Mesh | TexturedMesh) -> int:
    """Returns the number of faces of what `finish` returned."""
    return len((made.mesh if isinstance(made, TexturedMesh) else made).faces)


def vertices_of(made: Mesh | TexturedMesh) -> int:
    """Returns the number of vertices of what `finish` returned."""
    return len((made.mesh if isinstance(made, TexturedMesh) else made).vertices)

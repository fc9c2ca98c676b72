"""A gallery of held-out objects: each input picture beside four views of the generated object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....o_voxel.material import TexturedMesh
from ....o_voxel.render import Camera, mesh_scene, render_turntable, save_png, textured_scene
from ....o_voxel.voxels.sample import vertex_materials
from ...image import prepare_image
from ...pipeline import Asset, Pipeline
from ...values import EmptyOutputError
from .evaluate import generate

VIEWS = 4
PITCH_DEG, FRONT_YAW_DEG = 20.0, 25.0
PICTURE = 512  # pixels a side of the input picture
SHEET, PICTURES = "sheet.png", "pictures"
BACKGROUND = (236, 238, 240)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One object of the gallery.

    name: "family/seed".  picture: the RGBA input.  views: [4, T, T, 3] fp32 sRGB in [0, 1], 90 degrees apart, the first
    from the picture's yaw; background alone if the output is empty, with the reason in `problem`.
    """

    name: str
    picture: Image.Image
    views: Tensor
    problem: str = ""

    def strip(self) -> Tensor:
        """The picture on the background colour, then the views, in a row: [T, 5 T, 3] fp32 sRGB in [0, 1]."""
        tile = self.views.shape[1]
        canvas = Image.new("RGBA", (tile, tile), BACKGROUND)
        canvas.alpha_composite(self.picture.resize((tile, tile), Image.Resampling.LANCZOS))
        seen = torch.from_numpy(np.array(canvas.convert("RGB"))).float() / 255
        return torch.cat([seen, *self.views], dim=1)


def exhibits(
    pipeline: Pipeline, names: Sequence[str], *, tile: int = 256, steps: int | None = None, seed: int = 0
) -> Iterator[Exhibit]:
    """Generate the objects "family/seed" of the procedural world, each from the picture that `evaluate` uses.

    tile: pixels a side of a view.  steps: of every sampler, None: the checkpoint's.  seed: of the noise.
    Raises ValueError for a malformed name; an empty structure or surface becomes an exhibit with a problem.
    """
    from ..world import make_rendered_object

    for family, number in [_parse_name(name) for name in names]:
        # Only the picture is needed: the coarsest voxels are the fastest.
        sample = make_rendered_object(family, number, resolution=32, image_size=PICTURE)
        (picture,), (view,) = sample.images, sample.views
        camera = Camera(view.camera.yaw_deg, PITCH_DEG)
        try:
            asset, problem = generate(pipeline, prepare_image(picture), steps, seed).asset, ""
            views = render_sides(asset, camera, tile)
        except EmptyOutputError as error:
            views, problem = torch.tensor(BACKGROUND).div(255).expand(VIEWS, tile, tile, 3), str(error)
        yield Exhibit(f"{family}/{number}", picture, views, problem)


def render_sides(asset: Asset, camera: Camera, tile: int) -> Tensor:
    """Four views of an asset, 90 degrees apart, the first from the camera: [4, tile, tile, 3] fp32 sRGB on the CPU.

    Raises EmptyOutputError for an asset without faces.
    """
    if len(asset.mesh.faces) == 0:
        raise EmptyOutputError("empty surface: the shape decoder predicted no faces; try another seed")
    material = None if asset.field is None else vertex_materials(asset.mesh, asset.field)
    return render_turntable(mesh_scene(asset.mesh, material=material), VIEWS, camera, (tile, tile)).cpu()


def write_comparison(path: Path, before: TexturedMesh, after: Asset, tile: int) -> Path:
    """Write a PNG, 4 T x 2 T pixels, of four views of a mesh above those of its reconstruction.

    Raises EmptyOutputError for a reconstruction without faces.
    """
    camera = Camera(FRONT_YAW_DEG, PITCH_DEG)
    original = render_turntable(textured_scene(before), VIEWS, camera, (tile, tile)).cpu()
    rows = [torch.cat([*views], dim=1) for views in (original, render_sides(after, camera, tile))]
    return save_png(path, torch.cat(rows))


def write_gallery(folder: Path, shown: Iterator[Exhibit]) -> Iterator[Exhibit]:
    """Write each exhibit as it arrives, and yield it: its strip <family>.png, its transparent picture
    pictures/<family>.png, and all strips so far in rows, sheet.png. A family's second object is <family>_2."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    strips: list[Tensor] = []
    seen: Counter[str] = Counter()
    for exhibit in shown:
        family = exhibit.name.split("/")[0]
        seen[family] += 1
        name = f"{family}.png" if seen[family] == 1 else f"{family}_{seen[family]}.png"
        exhibit.picture.save(folder / PICTURES / name, optimize=True)
        strips.append(exhibit.strip())
        save_png(folder / name, strips[-1])
        save_png(folder / SHEET, torch.cat(strips))
        yield exhibit


def _parse_name(name: str) -> tuple[str, int]:
    """(family, seed) of "family/seed"."""
    family, _, number = name.partition("/")
    if not number.isdecimal():
        raise ValueError(f"object: expected family/seed, such as chair/1073741824, got {name!r}")
    return family, int(number)

"""What a checkpoint makes of objects that it has not seen, to look at: each picture beside four sides of the result."""

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
from .evaluate import generate

SIDES = 4
PITCH_DEG, FRONT_YAW_DEG = 20.0, 25.0
PICTURE = 512  # pixels a side of the input
SHEET, PICTURES = "sheet.png", "pictures"
PAPER = (236, 238, 240)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """name: "family/seed".  picture: RGBA, as the checkpoint got it.  views: [4, T, T, 3] sRGB in [0, 1], a quarter
    turn apart, the first from the picture's side; paper where no object could be made, and then why is `problem`."""

    name: str
    picture: Image.Image
    views: Tensor
    problem: str = ""

    def strip(self) -> Tensor:
        """The picture on paper, then the views: [T, 5 T, 3] sRGB in [0, 1]."""
        tile = self.views.shape[1]
        paper = Image.new("RGBA", (tile, tile), PAPER)
        paper.alpha_composite(self.picture.resize((tile, tile), Image.Resampling.LANCZOS))
        seen = torch.from_numpy(np.array(paper.convert("RGB"))).float() / 255
        return torch.cat([seen, *self.views], dim=1)


def exhibits(
    pipeline: Pipeline, names: Sequence[str], *, tile: int = 256, steps: int | None = None, seed: int = 0
) -> Iterator[Exhibit]:
    """The objects "family/seed" of the procedural world, each made from its first picture, as `evaluate` does.

    tile: pixels a side of a view.  steps: of every sampler, None for the checkpoint's own.  seed: of the noise.
    Raises ValueError for a name that is none.
    """
    from ..world import make_sample

    for family, number in [_parsed(name) for name in names]:
        # Voxels are not needed: as few as there can be.
        sample = make_sample(family, number, resolution=32, image_size=PICTURE)
        (picture,), (view,) = sample.images, sample.views
        camera = Camera(view.camera.yaw_deg, PITCH_DEG)
        try:
            asset, problem = generate(pipeline, prepare_image(picture), steps, seed).asset, ""
            views = turned(asset, camera, tile)
        except ValueError as error:
            # An empty structure or surface: the checkpoint's fault; the others are still to be seen.
            views, problem = torch.tensor(PAPER).div(255).expand(SIDES, tile, tile, 3), str(error)
        yield Exhibit(f"{family}/{number}", picture, views, problem)


def turned(asset: Asset, camera: Camera, tile: int) -> Tensor:
    """Four sides of an asset, a quarter turn apart, the first as the camera sees it: [4, tile, tile, 3] sRGB on the
    CPU. Raises ValueError where there is no surface."""
    if len(asset.mesh.faces) == 0:
        raise ValueError("empty surface")
    material = None if asset.field is None else vertex_materials(asset.mesh, asset.field)
    return render_turntable(mesh_scene(asset.mesh, material=material), SIDES, camera, (tile, tile)).cpu()


def write_comparison(path: Path, before: TexturedMesh, after: Asset, tile: int) -> Path:
    """Four sides of a mesh, from its front on, above the same of what a checkpoint made of it: [2 T, 4 T, 3]."""
    camera = Camera(FRONT_YAW_DEG, PITCH_DEG)
    original = render_turntable(textured_scene(before), SIDES, camera, (tile, tile)).cpu()
    rows = [torch.cat([*views], dim=1) for views in (original, turned(after, camera, tile))]
    return save_png(path, torch.cat(rows))


def write_gallery(folder: Path, shown: Iterator[Exhibit]) -> Iterator[Exhibit]:
    """Write every exhibit as it comes, and pass it on: a strip of each, <family>.png; its picture, pictures/
    <family>.png, transparent; and all strips above each other, sheet.png. A family's second object is <family>_2."""
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


def _parsed(name: str) -> tuple[str, int]:
    family, _, number = name.partition("/")
    if not number.isdecimal():
        raise ValueError(f"object: expected family/seed, such as chair/1073741824, got {name!r}")
    return family, int(number)

"""A look at the world: many objects on one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ....o_voxel.render import Camera, StudioLight
from .objects import make_object
from .views import View, draw_views, to_image

PAPER = (236, 238, 240)
YAWS_DEG = (35.0, -35.0)  # in turn, so that both sides are seen


def contact_sheet(families: Sequence[str], seeds: Sequence[int], tile: int, columns: int) -> Image.Image:
    """Every family's objects of these seeds, in rows of `columns` tiles of `tile` pixels a side. RGB."""
    keys = [(family, seed) for family in families for seed in seeds]
    sheet = Image.new("RGB", (columns * tile, -(-len(keys) // columns) * tile), PAPER)
    for index, (family, seed) in enumerate(keys):
        view = View(Camera(YAWS_DEG[seed % len(YAWS_DEG)], 20.0, fov_deg=25.0), StudioLight())
        picture = to_image(draw_views(make_object(family, seed), [view], tile)[0])
        row, column = divmod(index, columns)
        sheet.paste(picture, (column * tile, row * tile), picture)
    return sheet

"""The example workflow of many pictures; `workflows` lists it."""

from __future__ import annotations

from .canvas import BLUE, GREEN, ORANGE, Canvas
from .example import MINI, Types, new_canvas


def batch_folder(types: Types) -> Canvas:
    """A folder of pictures to a folder of files, with a table of results."""
    canvas = new_canvas("batch_folder", types)
    with canvas.group("1. Model", BLUE):
        model = canvas.add("T2LoadModel", model=MINI)
    with canvas.group("2. All pictures", GREEN):
        batch = canvas.add("T2BatchImages", pipeline=model["pipeline"])
    with canvas.group("3. Look at them", ORANGE):
        canvas.add("Preview3D", model_file=batch["model_files"])
    return canvas

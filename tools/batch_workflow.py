"""The example workflow of many pictures; `workflows` lists it."""

from __future__ import annotations

from collections.abc import Mapping

from .canvas import BLUE, GREEN, ORANGE, Canvas


def batch_folder(types: Mapping[str, type]) -> Canvas:
    """A folder of pictures to a folder of files, with a table of results."""
    from .workflows import MINI, new_canvas  # it lists this one

    canvas = new_canvas("batch_folder", types)
    with canvas.group("1. Model", BLUE):
        model = canvas.add("T2LoadModel", model=MINI)
    with canvas.group("2. All pictures", GREEN):
        batch = canvas.add("T2BatchImages", pipeline=model["pipeline"])
    with canvas.group("3. Look at them", ORANGE):
        canvas.add("Preview3D", model_file=batch["model_files"])
    return canvas

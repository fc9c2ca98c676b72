"""Draws the picture that ComfyUI's template browser shows for a workflow, from the file that the workflow has made.

`python tools/thumbnail.py print_3d output/3d/print_00001_.stl` writes workflows/print_3d.jpg, beside the workflow.
Run it on what a workflow makes with the choices that it comes with, so that the browser promises what a user gets.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from PIL import Image
from write import PACK, ROOT, load_pack

PIXELS = 384  # the browser shows about 300
QUALITY = 85


def picture(file: Path) -> Image.Image:
    """Returns the mesh file from its front, a little from the side and above: PIXELS x PIXELS, RGB."""
    load_pack()
    files, render = (importlib.import_module(f"{PACK}.o_voxel.{name}") for name in ("files.meshes.read", "render"))
    turn = render.render_turntable(files.load_textured_mesh(file), 1, size=(PIXELS, PIXELS))
    return Image.fromarray((turn[0] * 255).round().byte().numpy())


def main() -> None:
    """Writes workflows/<workflow>.jpg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workflow", help="name in workflows/, without suffix")
    parser.add_argument("file", type=Path, help="a mesh file that it made")
    arguments = parser.parse_args()
    if not (ROOT / "workflows" / f"{arguments.workflow}.json").is_file():
        parser.error(f"workflow: expected a name in workflows/, got {arguments.workflow!r}")
    picture(arguments.file).save(ROOT / "workflows" / f"{arguments.workflow}.jpg", quality=QUALITY, optimize=True)


if __name__ == "__main__":
    main()

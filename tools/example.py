"""What all example workflows share: the model in the box, and a canvas with its note."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .canvas import Canvas

NOTES = Path(__file__).with_name("notes")
MINI = "mini (built in)"
Types = Mapping[str, type]


def new_canvas(name: str, types: Types) -> Canvas:
    """A canvas with the note of tools/notes/NAME.md; {large} there is large_model.md."""
    return Canvas(name, note(name).replace("{large}", note("large_model")), types)


def note(name: str) -> str:
    """The text of tools/notes/NAME.md."""
    return (NOTES / f"{name}.md").read_text(encoding="utf-8").strip()

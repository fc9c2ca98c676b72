"""Which checkpoints are on this machine, and what they lack. Nothing is downloaded, and no weight is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.builtin import NAME, find_built_in
from ..checkpoint.download import local_file
from ..checkpoint.hub import MissingFileError
from ..checkpoint.layouts import COMFY_ORG, MICROSOFT, Checkpoint, SingleFiles

MOST_NAMED = 4
SINGLE_FILES = 4  # of Comfy-Org's layout


@dataclass(frozen=True)
class Source:
    """A checkpoint to look for. label: its name for the user.  source, folder: see `Checkpoint.open`."""

    label: str
    source: str
    folder: Path | None = None


def known_sources() -> list[Source]:
    """Returns the built-in checkpoint, if this copy has it, and the published ones in the hub's cache."""
    built_in = [Source(NAME, NAME)] if find_built_in() else []
    return [*built_in, Source(MICROSOFT, MICROSOFT), Source(COMFY_ORG, COMFY_ORG)]


def found(sources: Sequence[Source]) -> list[tuple[str, str]]:
    """Returns (label, state) of each checkpoint: complete, what is missing, or not here."""
    return [(source.label, _state(source)) for source in sources]


def _state(source: Source) -> str:
    try:
        checkpoint = Checkpoint.open(source.source, source.folder, _only_local)
        missing = checkpoint.layout.missing()
    except MissingFileError:
        return "not here"
    except (OSError, ValueError) as error:
        return f"cannot be read: {' '.join(str(error).split())[:200]}"
    if not missing:
        return "complete"
    if isinstance(checkpoint.layout, SingleFiles) and len(missing) == SINGLE_FILES:
        return "not here"
    more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
    return f"{len(missing)} files missing: {', '.join(missing[:MOST_NAMED])}{more}"


def _only_local(repository: str, name: str, folder: Path | None) -> Path:
    path = local_file(repository, name, folder)
    if path is None:
        raise MissingFileError(f"{name}: not on this machine")
    return path

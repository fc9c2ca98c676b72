"""fast-simplification in a process of its own: it holds the GIL until it ends, so that nothing else could run here."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys

import numpy as np

from ...core.progress import Progress, in_background, silent

log = logging.getLogger(__name__)

# With fewer faces it takes less than a second, and less than to start a process.
ALONE_FROM = 150_000
FACES_A_SECOND = 250_000
# The search path comes as an argument: a host may have extended it.
SCRIPT = """
import io, json, sys
sys.path[:] = json.loads(sys.argv[1])
import numpy
from fast_simplification import simplify
given = numpy.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)
vertices, faces = simplify(given["vertices"], given["faces"], target_count=int(given["target"]), preserve_border=True)
numpy.savez(sys.stdout.buffer, vertices=vertices, faces=faces)
"""


def simplify_by_library(
    vertices: np.ndarray, faces: np.ndarray, target: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns fast-simplification's (vertices [W, 3], faces [G, 3]) of a mesh, for `target` faces; open edges are kept.

    vertices: [V, 3] float64.  faces: [F, 3] int32.

    progress: by estimate; where it raises, the process is ended. The bytes are the same with and without it.
    """
    found = None
    if progress is not None and progress is not silent and len(faces) >= ALONE_FROM:
        found = _in_process(vertices, faces, target, progress)
    if found is None:
        from fast_simplification import simplify

        found = simplify(vertices, faces, target_count=target, preserve_border=True)
    return found


def _in_process(
    vertices: np.ndarray, faces: np.ndarray, target: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray] | None:
    """The library's result by another process; None, with a warning in the log, where that does not work here."""
    given = io.BytesIO()
    np.savez(given, vertices=vertices, faces=faces, target=target)
    hidden = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=hidden,
        )
    except OSError as error:
        log.warning("no process for fast-simplification (%s); the bar stands still while it runs here", error)
        return None
    try:
        seconds = 1 + len(faces) / FACES_A_SECOND
        made, errors = in_background(lambda report: process.communicate(given.getvalue()), progress, seconds)
    except BaseException:
        process.kill()
        raise
    if process.returncode:
        text = errors.decode(errors="replace").strip()[-200:]
        log.warning("fast-simplification failed in its own process, it now runs here: %s", text)
        return None
    result = np.load(io.BytesIO(made), allow_pickle=False)
    return result["vertices"], result["faces"]

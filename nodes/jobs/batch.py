"""A node that makes a folder of files of a folder of pictures, or of a table of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...o_voxel.asset import PRESETS
from ...trellis2.batch.results import FAILED, TABLE, Result
from ...trellis2.batch.rows import FORMATS, PICTURES, RowOptions, read_rows
from ...trellis2.batch.run import InProcess, common_settings, run_batch
from ...trellis2.batch.worker import Worker
from ...trellis2.image import AUTO, BACKGROUNDS
from ...trellis2.pipeline import PIPELINE_TYPES, Pipeline
from .. import host
from ..asset import FROM_PRESET, TEXTURE_SIZES
from ..sockets import PIPELINE, expect
from ..widgets import GENERATE_GROUP, SEED, STEP_CACHE, TOKENS, TYPE_FROM_MODEL, steps

NO_PRESET = "none (vertex colours)"
SHOWN_FAILURES = 5
# An empty list ends a node of another pack in an error of ComfyUI's own.
NOTHING_MADE = "Batch Images made no file. Its text says why, results.csv what became of each picture."


class BatchImages:
    """Each row is made by the calls of the command `batch`, with the networks of the connected pipeline."""

    CATEGORY = GENERATE_GROUP
    DESCRIPTION = (
        "Makes a GLB of every picture of an input folder, or of every row of a CSV file. Run again, it makes only what "
        "is missing, failed or changed."
    )
    FUNCTION = "run"
    RETURN_TYPES = ("STRING", "INT", "INT", "STRING")
    RETURN_NAMES = ("results_csv", "made", "failed", "model_files")
    OUTPUT_TOOLTIPS = (
        "The table of results, relative to the output folder: a row an object, with seed, settings, times, sizes, "
        "errors.",
        "How many files there are now.",
        "How many pictures could not be made.",
        "The files, relative to the output folder; a list, an item an object.",
    )
    OUTPUT_IS_LIST = (False, False, False, True)
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("batch", "folder", "bulk", "many images", "queue images", "csv", "directory", "image list")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        source = (
            "A subfolder of ComfyUI's input folder: its pictures, an object each. Or a .csv file there, with a column "
            "image (file names relative to it) and, if wanted, name, seed, resolution, preset, background and others "
            "in place of the widgets. Press R after adding one."
        )
        folder = (
            "Subfolder of ComfyUI's output folder, for the files (named as the pictures) and results.csv. The same "
            "folder again: what is finished is kept."
        )
        kind = "Voxels a side of the surface, see Image to 3D. Time and memory grow with them."
        preset = (
            "Finish of every object, as Game-Ready Asset makes it: from some seconds to minutes each. none: the "
            "decoded surface with vertex colours."
        )
        faces = "Maximum number of triangles of a file. 0: the preset's. No effect without a preset."
        background = "What is cut out of the pictures, see Prepare Image."
        return {
            "required": {
                "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
                "source": (host.picture_sources(PICTURES), {"tooltip": source}),
                "output_folder": ("STRING", {"default": "3d/batch", "tooltip": folder}),
                "preset": ([NO_PRESET, *PRESETS], {"default": NO_PRESET, "tooltip": preset}),
                "seed": SEED,
                "pipeline_type": ([TYPE_FROM_MODEL, *PIPELINE_TYPES], {"default": TYPE_FROM_MODEL, "tooltip": kind}),
                "steps": steps(),
            },
            "optional": {
                "background": (list(BACKGROUNDS), {"default": AUTO, "tooltip": background}),
                "faces": ("INT", {"default": 0, "min": 0, "max": 20_000_000, "step": 1000, "tooltip": faces}),
                "texture_size": (
                    [FROM_PRESET, *TEXTURE_SIZES],
                    {"default": FROM_PRESET, "tooltip": "Texels a side. Time and file size grow with its square."},
                ),
                "format": (list(FORMATS), {"default": "glb", "tooltip": "Of the files; see Save Mesh."}),
                "max_tokens": TOKENS,
                "step_cache": STEP_CACHE,
            },
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, source: Any = None, output_folder: str | None = None) -> bool | str:
        """True, or what is wrong with the names, told when the graph is queued. None: comes by a wire."""
        try:
            if source is not None:
                host.picture_source(source)
            if output_folder is not None:
                host.output_subfolder(output_folder)
        except (OSError, ValueError) as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, source: Any = None, output_folder: Any = None, **others: Any) -> str:
        return host.source_changed(source, output_folder)

    def run(
        self,
        pipeline: Pipeline,
        source: str,
        output_folder: str,
        preset: str,
        seed: int,
        pipeline_type: str,
        steps: int,
        background: str = AUTO,
        faces: int = 0,
        texture_size: str = FROM_PRESET,
        format: str = "glb",
        max_tokens: int = TOKENS[1]["default"],
        step_cache: bool = False,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        options = RowOptions(
            seed=seed,
            background=background,
            pipeline_type=None if pipeline_type == TYPE_FROM_MODEL else pipeline_type,
            steps=steps,
            max_tokens=max_tokens,
            step_cache=step_cache,
            preset=None if preset == NO_PRESET else preset,
            faces=faces or None,
            texture_size=None if texture_size == FROM_PRESET else int(texture_size),
            format=format,
        )
        path, subfolder = host.output_subfolder(output_folder)
        rows = read_rows(host.picture_source(source), options, host.readable)
        expect(pipeline, PIPELINE)
        common = common_settings(pipeline.checkpoint)
        worker = Worker(pipeline, common, place=host.at_work, extras=host.metadata(prompt, extra_pnginfo))
        board = _Board(len(rows))
        summary = run_batch(rows, path, InProcess(worker), common, report=board.report, on_result=board.add)
        lines = summary.lines()
        shown = lines[: SHOWN_FAILURES + 1]
        more = [f"and {len(lines) - len(shown)} more, see {TABLE}"] if len(lines) > len(shown) else []
        host.show_text([*shown, *more])
        files = [f"{subfolder}/{result.file}" for result in summary.results if result.status != FAILED]
        failed = len(summary.failed)
        return {
            "ui": {"text": [*shown, *more]},
            "result": (f"{subfolder}/{TABLE}", len(files), failed, files or host.absent(NOTHING_MADE) or []),
        }


class _Board:
    """The node's bar and its line: how many are done, and how long the rest will take."""

    def __init__(self, rows: int) -> None:
        self._rows, self._bar, self._begun = rows, host.progress(), time.monotonic()
        self._made = self._failed = 0

    def report(self, line: str, fraction: float) -> None:
        """Moves the bar; raises if the user has cancelled."""
        self._bar(fraction)

    def add(self, result: Result) -> None:
        """Counts a result, and says so on the node."""
        self._made += result.status != FAILED
        self._failed += result.status == FAILED
        each = (time.monotonic() - self._begun) / (self._made + self._failed)
        words = [f"{result.image}: {result.error or result.file}", f"{self._made} made, {self._failed} failed now"]
        host.show_text([*words, f"about {each:.0f} s a picture"])

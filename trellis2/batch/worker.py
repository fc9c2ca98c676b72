"""Makes the objects of a batch in this process, one after the other, while the next picture is read and cut out."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image

from ...o_voxel.asset import PRESETS, AssetOptions
from ...o_voxel.asset import STAGES as ASSET_STAGES
from ...o_voxel.core.progress import Progress, silent
from ...o_voxel.files.meshes.options import SaveOptions
from ...o_voxel.files.meshes.write import save_mesh
from ..image import cut_out, prepare_image, read_picture
from ..pipeline import MAX_TOKENS, Pipeline
from ..projection.camera import ViewRig
from ..runtime.memory import trim_heap
from ..values import Asset
from .finish import PROJECT, camera_search, finish, triangles_of
from .results import DONE, FAILED, Result, key_of, one_line, settings_of, sha256_of
from .rows import Row, RowOptions

T = TypeVar("T")
POLL = 0.3  # seconds between two looks for a cancel while a picture is cut out
SAMPLE_STAGES = ("prepare", "condition", "structure", "shape", "cascade", "texture", "decode")
STAGES = (*SAMPLE_STAGES, *ASSET_STAGES, PROJECT, "save")
# Errors after which no other row could be written either.
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class BatchStoppedError(OSError):
    """The batch cannot go on at all: no room on the disk, or a card that no longer answers."""


@dataclass(frozen=True)
class Prepared:
    """A picture with its matte, `cut`. digest: SHA-256 of its file.  notes: what was cut.  seconds: it took."""

    digest: str
    cut: Image.Image
    notes: tuple[str, ...]
    seconds: float


@dataclass
class Worker:
    """Makes rows with one pipeline. common: settings of the whole batch, which belong to each row's key.

    place: moves what was decoded to where the asset is made.  extras: of every file, see `SaveOptions`.
    """

    pipeline: Pipeline
    common: Mapping[str, str]
    place: Callable[[Any], Any] = lambda value: value
    extras: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # One thread: pictures are cut out in the order in which they are needed.
        self._threads = ThreadPoolExecutor(1, "next picture")
        self._ahead: dict[Row, Future[Prepared]] = {}

    def make(self, row: Row, folder: Path, upcoming: Row | None = None, progress: Progress = silent) -> Result:
        """Makes a row's file in `folder`, and returns its result; a failure is a result too.

        upcoming: is prepared meanwhile.  progress: may raise to cancel, which propagates.
        Raises BatchStoppedError.
        """
        report, begun = _Reporter(progress), time.monotonic()
        digest, settings = "", settings_of(row, self.common)
        about = {
            "file": row.file,
            "image": row.image.name,
            "seed": row.options.seed,
            "settings": settings,
            "device": str(self.pipeline.residency.device),
        }
        try:
            if row.problem:
                raise ValueError(row.problem)
            prepared = self._prepared(row, upcoming, report)
            digest = prepared.digest
            made = self._make(row, prepared, folder / row.file, report)
        except Exception as error:  # noqa: BLE001 whatever is wrong with one row must not stop the others
            if report.cancelled is not None:
                raise report.cancelled from None
            self._check_alive(error)
            made = {"status": FAILED, "error": one_line(error)}
        trim_heap()
        result = Result(**about, **made, input_sha256=digest, key=key_of(digest, settings) if digest else "")
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return replace(result, seconds=_rounded(time.monotonic() - begun), finished=now)

    def close(self) -> None:
        """Ends the thread that reads pictures."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _prepared(self, row: Row, upcoming: Row | None, report: _Reporter) -> Prepared:
        future = self._ahead.pop(row, None) or self._threads.submit(prepare, row)
        for other in self._ahead.values():  # promised to this worker, and made by another
            other.cancel()
        self._ahead.clear()
        if upcoming is not None and not upcoming.problem:
            self._ahead[upcoming] = self._threads.submit(prepare, upcoming)
        while not wait([future], POLL).done:
            report.stage("prepare", 0.0)
        return future.result()

    def _make(self, row: Row, prepared: Prepared, path: Path, report: _Reporter) -> dict[str, Any]:
        options, notes, begun = row.options, list(prepared.notes), time.monotonic()
        asset = self._sample(options, prepared.cut, report)
        sampled = time.monotonic()
        made = finish(
            Asset(self.place(asset.mesh), self.place(asset.field)),
            asset_options(options),
            (prepared.cut,) if options.project_picture else (),
            camera_search(self.pipeline.config),
            progress=report.stage,
            on_warning=notes.append,
            on_choice=notes.append,
        )
        saving = SaveOptions(extras=self.extras) if options.format == "glb" and self.extras else SaveOptions()
        saved = save_mesh(path, made, saving, progress=lambda share: report.stage("save", share))
        return {
            "status": DONE,
            "prepare_s": _rounded(prepared.seconds),
            "sample_s": _rounded(sampled - begun),
            "finish_s": _rounded(time.monotonic() - sampled),
            "bytes": saved.size,
            "triangles": triangles_of(made),
            "notes": "; ".join(notes),
        }

    def _sample(self, options: RowOptions, cut: Image.Image, report: _Reporter) -> Asset:
        projects = self.pipeline.config.projects
        (asset,) = self.pipeline.integrated(options.sampler).run(
            [[cut if projects else prepare_image(cut)]],
            pipeline_type=options.pipeline_type,
            seed=options.seed,
            steps=options.steps,
            max_tokens=options.max_tokens or MAX_TOKENS,
            view_mode=ViewRig(options.fov) if projects else "average",
            step_cache=options.step_cache,
            progress=report.stage,
        )
        return asset

    def _check_alive(self, error: BaseException) -> None:
        """Raises BatchStoppedError where the next row would fail of the same."""
        if isinstance(error, OSError) and error.errno in NO_PLACE:
            raise BatchStoppedError(
                error.errno, f"{error.strerror}: the batch stopped; run it again to go on"
            ) from error
        device = self.pipeline.residency.device
        if device.type != "cuda" or not isinstance(error, RuntimeError):
            return
        try:
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
        except RuntimeError as fatal:
            raise BatchStoppedError(
                errno.EIO, f"{device} no longer answers ({one_line(fatal)}); run it again in a new process to go on"
            ) from error


class _Reporter:
    """One row's progress over STAGES. cancelled: what the caller's progress raised, which is no fault of the row."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.cancelled: BaseException | None = None

    def stage(self, stage: str, fraction: float) -> None:
        try:
            self._progress((STAGES.index(stage) + fraction) / len(STAGES))
        except BaseException as error:
            self.cancelled = error
            raise


def prepare(row: Row) -> Prepared:
    """Reads and cuts out a row's picture. Raises OSError, ValueError for what is no picture, ImportError; see
    `cut_out`."""
    begun = time.monotonic()
    digest = sha256_of(row.image)
    cut = cut_out(read_picture(row.image), row.options.background)
    notes = (cut.used, *([f"not sure: {cut.warning}"] if cut.warning else []))
    return Prepared(digest, cut.image, notes, time.monotonic() - begun)


def asset_options(options: RowOptions) -> AssetOptions | None:
    """Returns a row's preset with its own values in place of the preset's; None without a preset."""
    if options.preset is None:
        return None
    own = {"faces": options.faces, "texture_size": options.texture_size, "surface": options.surface}
    return replace(PRESETS[options.preset], **{name: value for name, value in own.items() if value is not None})


def _rounded(seconds: float) -> float:
    return round(seconds, 2)

"""Downloads one file of a hub repository with progress and cancel. huggingface_hub loads and verifies."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...o_voxel.core.progress import Progress, in_background, silent

log = logging.getLogger(__name__)

# Seconds to reach the hub, in one attempt, and to answer what sizes its files have.
CONNECT_SECONDS = 1.0
# Seconds between two lines in the log.
LOG_SECONDS = 5.0
# Seconds over which the speed is averaged.
AVERAGED = 5.0
# huggingface_hub reports after so many bytes.
CHUNK = 10 << 20
NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError", "OfflineModeIsEnabled", "gaierror")


class OfflineError(OSError):
    """The hub cannot be reached."""


class Meter:
    """Counts bytes: the fraction done, bytes a second, and the rest of the time.

    Between two reports, which are far apart on a slow line, it counts on at the measured speed, up to the next one.
    """

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done = name, total, 0
        self._begun = self._last = self._logged = time.monotonic()
        self._rate, self._shown = 0.0, 0.0

    def resume(self, done: int) -> None:
        """Sets the number of bytes that were there before."""
        self.done, self._begun, self._last = done, time.monotonic(), time.monotonic()

    def add(self, count: int) -> None:
        """Counts bytes that arrived."""
        now = time.monotonic()
        passed = max(now - self._last, 1e-3)
        share = min(1.0, passed / AVERAGED) if self._rate else 1.0
        self._rate += share * (count / passed - self._rate)
        self.done, self._last = self.done + count, now

    def fraction(self) -> float:
        """The fraction done, below 1; never falls. 0 while the size is not known. Writes to the log now and then."""
        now = time.monotonic()
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            log.info("%s", self.line())
        if self.total:
            ahead = min(self._rate * (now - self._last), CHUNK)
            self._shown = max(self._shown, min(0.999, (self.done + ahead) / self.total))
        return self._shown

    def line(self) -> str:
        """As "model.safetensors: 1.2 of 4.9 GB, 23.4 MB/s, 2:38 left"."""
        if not self.total:
            return f"{self.name}: {self.done / 1e6:,.0f} MB, {self._rate / 1e6:.1f} MB/s"
        unit, size = ("GB", 1e9) if self.total >= 1e9 else ("MB", 1e6)
        text = f"{self.name}: {self.done / size:.1f} of {self.total / size:.1f} {unit}, {self._rate / 1e6:.1f} MB/s"
        left = (self.total - self.done) / self._rate if self._rate else 0.0
        return f"{text}, {int(left) // 60}:{int(left) % 60:02} left" if left else text


def download(repository: str, name: str, folder: Path | None, progress: Progress | None = None) -> Path:
    """Returns the path of a file of `repository`, downloaded to `folder`, None: the hub's cache, if it is not there.

    progress: called several times a second with the fraction done; where it raises, the error propagates at once.
    huggingface_hub before 2 keeps the part that has arrived and resumes it; later releases begin the file again.
    Raises OfflineError within about CONNECT_SECONDS, and the errors of `hf_hub_download`.
    """
    from huggingface_hub import hf_hub_download

    found = local_file(repository, name, folder)
    if found is not None:
        return found
    report = progress or silent
    total = in_background(lambda _: _size(repository, name), _without_fraction(progress), CONNECT_SECONDS)
    meter = Meter(name, total)
    options: dict[str, Any] = {"local_dir": folder}

    def load(alive: Progress) -> str:
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
            options["tqdm_class"] = _bar_of(meter, alive)
        return hf_hub_download(repository, name, **options)

    # Left by a cancel, the call ends at its next chunk; until then it writes to a file of its own only.
    path = in_background(load, None if progress is None else lambda _: report(meter.fraction()), 1.0)
    log.info("%s is downloaded", name)
    report(1.0)
    return Path(path)


def local_file(repository: str, name: str, folder: Path | None) -> Path | None:
    """Returns the path of a file that was downloaded before, or None. Asks nothing of the hub."""
    if folder is not None:
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name)
    return Path(found) if isinstance(found, str) else None


def _without_fraction(progress: Progress | None) -> Progress | None:
    """`progress` for what is too short to be shown: it can cancel."""
    return None if progress is None else lambda _: progress(0.0)


def _size(repository: str, name: str) -> int | None:
    """Bytes of a file, None where the hub does not say. Raises OfflineError; other errors come with the download."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        files = api.model_info(repository, files_metadata=True, timeout=CONNECT_SECONDS).siblings or ()
    except Exception as error:
        if any(type(cause).__name__ in NO_CONNECTION for cause in _causes(error)):
            raise OfflineError(f"{api.endpoint} cannot be reached ({type(error).__name__})") from error
        log.debug("the size of %s is not known: %s", name, error)
        return None
    return next((file.size for file in files if file.rfilename == name), None)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _bar_of(meter: Meter, alive: Progress) -> type:
    """A class that huggingface_hub takes for a tqdm: it counts for `meter`, and `alive` may raise in it."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            meter.resume(int(options.get("initial") or 0))
            meter.total = options.get("total") or meter.total
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            meter.add(int(n or 0))
            alive(0.0)

    return Bar

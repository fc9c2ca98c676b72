"""Downloads one file of a hub repository with progress and cancel.

Large files, those with a SHA-256, go on where an earlier attempt ended (`partial`). huggingface_hub, which begins a
file again since its release 2, loads the small ones and keeps its cache.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...o_voxel.core.progress import Progress, in_background, silent
from .meter import Meter
from .partial import Remote, fetch

log = logging.getLogger(__name__)

# Seconds to reach the hub, and then for its answer about a file.
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 10.0
# Seconds for which a hub that could not be reached is not asked again: a network has several files and sources.
OFFLINE_SECONDS = 5.0
# Settings of huggingface_hub by which the user chose another transfer.
OTHER_TRANSFERS = ("HF_HUB_ENABLE_HF_TRANSFER", "HF_XET_HIGH_PERFORMANCE")
# Packages whose errors, not all of them OSError, mean that the connection failed.
TRANSPORTS = ("httpx", "httpx2", "requests", "urllib3")
NO_CONNECTION = ("ConnectError", "ConnectTimeout", "ConnectionError", "ProxyError", "OfflineModeIsEnabled", "gaierror")
# By address of a hub: when it could not be reached, and what was said.
_unreachable: dict[str, tuple[float, str]] = {}


class OfflineError(OSError):
    """The hub cannot be reached."""


@dataclass(frozen=True)
class Facts:
    """What the hub says of a file. commit: its revision; size: in bytes; digest: the SHA-256 of a large file."""

    commit: str | None
    size: int | None
    digest: str | None


def download(
    repository: str,
    name: str,
    folder: Path | None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Returns the path of a file of `repository`, downloaded to `folder`, None: the hub's cache, if it is not there.

    progress: called several times a second with the fraction done; where it raises, the error propagates at once, and
    what has arrived of a large file stays for the next call.  tell: is given a line for the user once a second.
    Raises OfflineError within about CONNECT_SECONDS, ConnectionError where a connection is lost for good, and the
    errors of `fetch` and `hf_hub_download`.
    """
    found = local_file(repository, name, folder)
    if found is not None:
        return found
    facts = in_background(lambda _: _ask(repository, name), _without_fraction(progress), CONNECT_SECONDS)
    meter = Meter(name, None if facts is None else facts.size, tell)
    report = None if progress is None else lambda _: progress(meter.fraction())
    path = None
    try:
        if facts is not None and _resumes(repository, name, facts):
            path = _fetch(repository, name, folder, facts, meter, report)
        if path is None:
            path = _hub_download(repository, name, folder, meter, report)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in TRANSPORTS:
            raise
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    log.info("%s is downloaded", name)
    meter.end()
    if progress is not None:
        progress(1.0)
    return path


def _resumes(repository: str, name: str, facts: Facts) -> bool:
    """Can the file be verified, and does it have to come over the line?"""
    from huggingface_hub import constants, try_to_load_from_cache

    if not (facts.commit and facts.size and facts.digest):
        return False
    other = any(getattr(constants, setting, False) for setting in OTHER_TRANSFERS)
    return not other and not isinstance(try_to_load_from_cache(repository, name, revision=facts.commit), str)


def _fetch(
    repository: str,
    name: str,
    folder: Path | None,
    facts: Facts,
    meter: Meter,
    report: Progress | None,
) -> Path | None:
    """Downloads a large file, resuming it. None: no plain request gets it, as where the hub's own protocol has to."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import HfHubHTTPError

    if folder is not None:
        target = folder / name
    else:
        # Where the cache keeps a file's bytes; `hf_hub_download` then finds them, and links them to the file's name.
        cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
        target = cached / "blobs" / facts.digest
    remote = Remote(hf_hub_url(repository, name, revision=facts.commit), facts.digest, facts.size)
    try:
        fetch(remote, target, meter, _bar_of(Meter(name, None), silent), report)
    except (HfHubHTTPError, ValueError) as error:
        log.info("%s: no plain download (%s); huggingface_hub loads it", name, error)
        return None
    if folder is not None:
        return target
    path = _hub_download(repository, name, None, meter, report)
    if not path.is_symlink():
        # Without symbolic links, on Windows, the cache has copied the bytes.
        target.unlink(missing_ok=True)
    return path


def _hub_download(repository: str, name: str, folder: Path | None, meter: Meter, report: Progress | None) -> Path:
    """`hf_hub_download`, counted by `meter`. Left by a cancel, it ends at its next chunk; until then it writes to a
    file of its own only."""
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {"local_dir": folder}

    def load(alive: Progress) -> str:
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
            options["tqdm_class"] = _bar_of(meter, alive)
        return hf_hub_download(repository, name, **options)

    return Path(in_background(load, report, 1.0))


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


def _ask(repository: str, name: str) -> Facts | None:
    """What the hub says of a file, None where it does not say. Raises OfflineError; others come with the download."""
    from huggingface_hub import HfApi

    api = HfApi()
    when, said = _unreachable.get(api.endpoint, (0.0, ""))
    if said and time.monotonic() - when < OFFLINE_SECONDS:
        raise OfflineError(said)
    for seconds in (CONNECT_SECONDS, ANSWER_SECONDS):
        try:
            # One attempt; a question for the file itself, `get_hf_file_metadata`, is repeated for 23 s by release 0.36.
            model = api.model_info(repository, files_metadata=True, timeout=seconds)
        except Exception as error:
            kinds = {type(cause).__name__ for cause in _causes(error)}
            if kinds.intersection(NO_CONNECTION):
                said = f"{api.endpoint} cannot be reached ({type(error).__name__})"
                _unreachable[api.endpoint] = time.monotonic(), said
                raise OfflineError(said) from error
            if "ReadTimeout" not in kinds:
                log.debug("%s: the hub does not say what it is: %s", name, error)
                return None
        else:
            file = next((file for file in model.siblings or () if file.rfilename == name), None)
            digest = None if file is None or file.lfs is None else file.lfs.sha256
            return None if file is None else Facts(model.sha, file.size, digest)
    return None


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

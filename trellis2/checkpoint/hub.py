"""Finds a checkpoint's files in a folder, or downloads them from a hub repository on first use."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...o_voxel.core.progress import Progress
from .download import OfflineError, download, local_file
from .stored import unread_files

log = logging.getLogger(__name__)

# download(repository, file name, folder to store it in or None: the hub's cache) -> path of the local file
Download = Callable[[str, str, Path | None], Path]
# A path of a repository: names, none of which is "..", that no system takes for a place of its own.
INSIDE = re.compile(r"(?!\.\.(/|$))[^/\\:\x00-\x1f]+(/(?!\.\.(/|$))[^/\\:\x00-\x1f]+)*")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class MissingFileError(FileNotFoundError):
    """A checkpoint's file is absent and cannot be downloaded; the message gives the remedy."""


def hub_download(
    repository: str,
    name: str,
    folder: Path | None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Downloads one file unless it is there, and verifies its digest. After a cancel or a failure the next call goes on
    where this one ended.

    progress: called several times a second; may raise, to cancel.  tell: is given a line for the user once a second,
    with what has arrived and the speed. Raises MissingFileError with the reason.
    """
    from huggingface_hub.utils import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return download(repository, name, folder, progress, tell)
    except OfflineError as error:
        where = folder or "the hub's cache"
        raise MissingFileError(
            f"{name}: it is not in {where}, and {error}. With a connection, or on another computer, run\n"
            f"    {download_command(repository, name, folder)}"
        ) from error
    except GatedRepoError as error:
        raise MissingFileError(
            f"{name}: {repository} is gated. Accept its licence on the hub, then run `hf auth login` and\n"
            f"    {download_command(repository, name, folder)}"
        ) from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise MissingFileError(
            f"{name}: could not be downloaded from {repository} ({type(error).__name__}: {reason}). Run it again to go "
            f"on where it ended, or\n    {download_command(repository, name, folder)}"
        ) from error


def download_command(repository: str, name: str, folder: Path | None) -> str:
    """Returns the shell command that downloads one file."""
    where = f' --local-dir "{folder}"' if folder else ""
    return f"hf download {repository} {name}{where}"


@dataclass(frozen=True)
class FileSource:
    """Source of a checkpoint's files.

    folder: local files and downloads; None: the hub's cache.  repository: source of absent files; None: never download.
    official: repository named in error messages, for a manual download.
    """

    folder: Path | None
    repository: str | None
    official: str
    download: Download = hub_download

    @classmethod
    def open(
        cls, source: str, official: str, folder: Path | None = None, download: Download = hub_download
    ) -> FileSource:
        """Opens a local folder, or a repository "owner/name" with downloads in `folder` (None: the hub's cache). Raises
        MissingFileError for anything else."""
        path = Path(source).expanduser()
        if path.is_dir():
            return cls(path, None, official, download)
        if REPOSITORY.fullmatch(source):
            return cls(folder, source, source, download)
        raise MissingFileError(f"{source}: expected a folder that exists, or a hub repository 'owner/name'")

    def find(self, name: str) -> Path | None:
        """Returns the path of a file or folder in the source's folder, or None."""
        path = self.folder / name if self.folder else None
        return path if path is not None and path.exists() else None

    def has(self, name: str) -> bool:
        """Is the file in the source's folder, or, of a repository without one, in the hub's cache?"""
        if self.find(name) is not None or self.repository is None or self.folder is not None:
            return self.find(name) is not None
        return local_file(self.repository, name, None) is not None

    def get(self, name: str) -> Path:
        """Returns the file's path, downloading it if absent. Raises MissingFileError naming file, folder, repository
        and command."""
        found = self.find(name)
        if found is not None:
            return found
        if self.repository is not None:
            if not INSIDE.fullmatch(name):
                raise MissingFileError(f"{name!r:.200}: expected the name of a file in {self.repository}")
            log.info("downloading %s from %s", name, self.repository)
            return self.download(self.repository, name, self.folder)
        raise MissingFileError(
            f"{name} is missing from {self.folder}.{unread_files(self.folder)} It belongs to {self.official}; get it "
            f"with\n    {download_command(self.official, name, self.folder)}"
        )

    def elsewhere(self, path: str) -> tuple[FileSource, str]:
        """Resolves `owner/repository/name`, a path outside this checkpoint, to a source and a file name.

        Looks for the usual local layouts near this folder, `<models>/owner/repository` and `<models>/repository`,
        before the hub.
        """
        if path.count("/") < 2:
            raise MissingFileError(
                f"{path}: not found in {self.folder}; expected a file there, or a path 'owner/name/file'"
            )
        owner, repository, name = path.split("/", 2)
        repo = f"{owner}/{repository}"
        parents = [] if self.folder is None else [self.folder, self.folder.parent, self.folder.parent.parent]
        for parent in parents:
            for candidate in (parent / owner / repository, parent / repository):
                if candidate.is_dir():
                    return FileSource(candidate, None, repo, self.download), name
        return FileSource(None, repo, repo, self.download), name

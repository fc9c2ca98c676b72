"""Where a checkpoint's files are: a folder, or a hub repository fetched when first needed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

# download(repository, file name, folder to keep it in or None for the hub's own cache) -> the local file
Download = Callable[[str, str, Path | None], Path]
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class MissingFileError(FileNotFoundError):
    """A file of a checkpoint that is not there and cannot be had, with what to do about it."""


def hub_download(repository: str, name: str, folder: Path | None) -> Path:
    """Fetch one file, resuming a broken download and checking its digest. Raises MissingFileError, saying why."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, local_dir=folder))
    except GatedRepoError as error:
        raise MissingFileError(
            f"{name}: {repository} is gated. Accept its licence on the hub, then run `hf auth login` and\n"
            f"    {download_command(repository, name, folder)}"
        ) from error
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MissingFileError(
            f"{name}: could not be downloaded from {repository} ({type(error).__name__}). With a connection, run\n"
            f"    {download_command(repository, name, folder)}"
        ) from error


def download_command(repository: str, name: str, folder: Path | None) -> str:
    """The shell command that fetches one file."""
    where = f' --local-dir "{folder}"' if folder else ""
    return f"hf download {repository} {name}{where}"


@dataclass(frozen=True)
class FileSource:
    """A checkpoint's files. folder: where they are, or are downloaded to; None for the hub's cache.

    repository: where missing ones come from; a source without one never downloads.
    official: the repository to name to a user who has to fetch a file by hand.
    """

    folder: Path | None
    repository: str | None
    official: str
    download: Download = hub_download

    @classmethod
    def open(
        cls, source: str, official: str, folder: Path | None = None, download: Download = hub_download
    ) -> FileSource:
        """A local folder as it is, or a repository "owner/name" (kept in `folder`, or in the hub's cache)."""
        path = Path(source).expanduser()
        if path.is_dir():
            return cls(path, None, official, download)
        if REPOSITORY.fullmatch(source):
            return cls(folder, source, source, download)
        raise MissingFileError(f"{source}: expected a folder that exists, or a hub repository 'owner/name'")

    def find(self, name: str) -> Path | None:
        """The file or folder if it is in the source's folder."""
        path = self.folder / name if self.folder else None
        return path if path is not None and path.exists() else None

    def get(self, name: str) -> Path:
        """The file, downloaded if need be. Raises MissingFileError naming file, folder, repository and command."""
        found = self.find(name)
        if found is not None:
            return found
        if self.repository is not None:
            log.info("downloading %s from %s", name, self.repository)
            return self.download(self.repository, name, self.folder)
        raise MissingFileError(
            f"{name} is missing from {self.folder}. It belongs to {self.official}; get it with\n"
            f"    {download_command(self.official, name, self.folder)}"
        )

    def elsewhere(self, path: str) -> tuple[FileSource, str]:
        """The source and name of `owner/repository/name`, a path that leaves this checkpoint.

        Beside our own folder it is looked for as models are usually kept, `<models>/owner/repository` or
        `<models>/repository`, before it is downloaded.
        """
        if path.count("/") < 2:
            raise MissingFileError(f"{path}: it is not in {self.folder}, and names no repository 'owner/name'")
        owner, repository, name = path.split("/", 2)
        repo = f"{owner}/{repository}"
        parents = [] if self.folder is None else [self.folder, self.folder.parent, self.folder.parent.parent]
        for parent in parents:
            for place in (parent / owner / repository, parent / repository):
                if place.is_dir():
                    return FileSource(place, None, repo, self.download), name
        return FileSource(None, repo, repo, self.download), name

"""Workers on the hosts of a Ray cluster. Ray is imported here, when it is asked for, and nowhere else.

Pictures go to a worker and files come back through Ray, so that no folder need be shared. The pack has to be on every
host, in the same folder or installed by pip.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ...o_voxel.core.atomic_io import write_files
from ..checkpoint.builtin import NAME
from .remote import ROOT, Setup, as_json
from .results import Result
from .rows import Row
from .run import WorkerEndedError
from .worker import BatchStoppedError

CLOSE_SECONDS = 5.0
INSTALL = "ray: the package is not installed; run pip install ray, on every host, or leave --ray out"


def connect(address: str | None) -> ModuleType:
    """Returns ray, connected. address: of a cluster, "auto" for the one that this host belongs to; None or "local":
    this host alone. Raises ImportError, ConnectionError."""
    try:
        import ray
    except ImportError as error:
        raise ImportError(INSTALL) from error
    if not ray.is_initialized():
        where = {} if address in (None, "local") else {"address": address}
        ray.init(**where, log_to_driver=False, include_dashboard=None if where else False, logging_level="warning")
    return ray


def cards(ray: ModuleType) -> int:
    """Returns the number of GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))


def threads(ray: ModuleType) -> int:
    """Returns the threads that a worker may take: the cluster's cores for each of its GPUs, or all of them."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // max(1, cards(ray)))


class RayWorker:
    """An actor with a pipeline of its own, on a GPU of the cluster where it has any."""

    def __init__(self, ray: ModuleType, setup: Setup, number: int) -> None:
        self.name, self._ray = f"ray {number + 1}", ray
        gpus = 1 if cards(ray) and setup.device is None else 0
        actor = ray.remote(num_gpus=gpus, num_cpus=1)(_actor())
        self._actor = actor.remote(ROOT, asdict(setup) | {"common": dict(setup.common)}, threads(ray))
        self._busy = False

    def make(self, row: Row, folder: Path, upcoming: Row | None) -> Result:
        """See `Remote`. Raises WorkerEndedError; BatchStoppedError for what no row can be made without."""
        from ray.exceptions import RayError

        self._busy = True
        try:
            sent = self._actor.make.remote(_sent(row), upcoming and _sent(upcoming))
            answer, files = self._ray.get(sent)
        except RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise WorkerEndedError(f"{self.name} ended: {lines[-1] if lines else type(error).__name__}") from error
        self._busy = False
        if "stopped" in answer:
            raise BatchStoppedError(answer["errno"], answer["stopped"])
        if files:
            write_files({folder / name: content for name, content in files.items()})
        return replace(Result(**answer), image=row.image.name)

    def stop(self) -> None:
        """Kills the actor, which first removes its folder unless it is at work."""
        if not self._busy:
            with suppress(Exception):  # it may be gone, with its host
                self._ray.get(self._actor.close.remote(), timeout=CLOSE_SECONDS)
        self._ray.kill(self._actor)


def source_everywhere(source: str) -> str:
    """Returns a checkpoint's name for other hosts: a folder by its whole path, which has to be there too."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source != NAME and path.exists() else source


def _sent(row: Row) -> dict[str, Any]:
    """A row with its picture's content, None where it cannot be read: the worker says why."""
    try:
        content = row.image.read_bytes()
    except OSError:
        content = None
    return {"row": as_json(row), "content": content}


def _actor() -> type:
    """The class of the actors. It is made in a function and uses nothing of this module, so that Ray sends its code:
    the pack has another name in every process."""

    class Actor:
        def __init__(self, root: str, setup: Mapping[str, Any], threads: int) -> None:
            import importlib
            import importlib.util
            import sys
            import tempfile
            import types
            from pathlib import Path

            import torch

            # Ray's own choice is one for each CPU of the actor: one.
            torch.set_num_threads(threads)  # noqa: TID251 the process is the actor's own
            if not Path(root).is_dir():
                found = importlib.util.find_spec("comfyui_trellis2")
                if found is None or not found.submodule_search_locations:
                    raise FileNotFoundError(f"{root}: the pack is not on this host; put it there, or pip install it")
                root = next(iter(found.submodule_search_locations))
            pack = types.ModuleType("trellis2_worker")
            pack.__path__ = [root]
            sys.modules[pack.__name__] = pack
            self.remote = importlib.import_module(f"{pack.__name__}.trellis2.batch.remote")
            self.setup = setup
            self.worker: Any = None
            self.folder = Path(tempfile.mkdtemp(prefix="trellis2_"))

        def make(
            self, asked: Mapping[str, Any], upcoming: Mapping[str, Any] | None
        ) -> tuple[dict[str, Any], dict[str, bytes]]:
            import shutil
            from dataclasses import asdict

            out = self.folder / "out"
            try:
                self.worker = self.worker or self.remote.build(self.setup)
                row, following = self.row(asked), None if upcoming is None else self.row(upcoming)
                answer = asdict(self.worker.make(row, out, following))
                if row.image.is_relative_to(self.folder):
                    row.image.unlink(missing_ok=True)
            except (ValueError, OSError, ImportError) as error:
                return {"stopped": str(error), "errno": getattr(error, "errno", None)}, {}
            files = {path.name: path.read_bytes() for path in sorted(out.glob("*"))} if out.is_dir() else {}
            shutil.rmtree(out, ignore_errors=True)
            return answer, files

        def close(self) -> None:
            import shutil

            shutil.rmtree(self.folder, ignore_errors=True)

        def row(self, sent: Mapping[str, Any]) -> Any:
            """The row with its picture in this host's folder."""
            from dataclasses import replace
            from pathlib import Path

            row = self.remote.row_of(sent["row"])
            if sent["content"] is None:
                return replace(row, problem=row.problem or f"{row.image.name}: the picture cannot be read")
            path = self.folder / "in" / f"{row.name}{Path(row.image).suffix}"
            path.parent.mkdir(exist_ok=True)
            if not path.is_file():
                path.write_bytes(sent["content"])
            return replace(row, image=path)

    return Actor

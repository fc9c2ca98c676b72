"""Held-out objects of the world for benches: made by other processes ahead of time, voxelised and drawn on the card."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bench  # noqa: F401 loads the pack, in the other processes too
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import TexturedMesh
from comfyui_trellis2.o_voxel.values import Mesh, OVoxel, to_device
from comfyui_trellis2.o_voxel.voxels.from_mesh import voxelize
from comfyui_trellis2.o_voxel.voxels.to_mesh import dual_grid_to_mesh
from comfyui_trellis2.trellis2.image import prepare_image
from comfyui_trellis2.trellis2.training.data.stream import end_with_parent, worker_context
from comfyui_trellis2.trellis2.training.evaluation.evaluate import RESOLUTION, WorldCase
from comfyui_trellis2.trellis2.training.world import View, draw_views
from comfyui_trellis2.trellis2.training.world.dice import Dice
from comfyui_trellis2.trellis2.training.world.objects import facing, make_object
from comfyui_trellis2.trellis2.training.world.views import random_view, to_image
from PIL import Image

AHEAD = 4  # objects that wait, made


@dataclass(frozen=True, eq=False)
class WorldSample:
    """An object as `make_rendered_object` makes it, on a device. surface: of its voxels, made once for all figures."""

    case: WorldCase
    mesh: TexturedMesh
    view: View
    voxels: OVoxel
    surface: Mesh

    def pictures(self, views: Sequence[View], size: int = 512) -> list[Image.Image]:
        """Prepared pictures."""
        return [prepare_image(to_image(picture)) for picture in draw_views(self.mesh, list(views), size)]


def _turned(case: WorldCase) -> TexturedMesh:
    return facing(make_object(case.family, case.seed), Dice("heading", case.family, case.seed).between(0, 360))


def world_samples(cases: Sequence[WorldCase], device: torch.device) -> Iterator[WorldSample]:
    """The objects of `cases`, voxelised at RESOLUTION on `device`."""
    workers = max(1, min(AHEAD, (os.cpu_count() or 1) - 1))
    with ProcessPoolExecutor(workers, worker_context(), end_with_parent) as pool:
        waiting: list[Future[TexturedMesh]] = []
        for number, case in enumerate(cases):
            while len(waiting) <= min(AHEAD, len(cases) - number - 1):
                waiting.append(pool.submit(_turned, cases[number + len(waiting)]))
            mesh = to_device(waiting.pop(0).result(), device)
            voxels = voxelize(mesh, Grid.cube(RESOLUTION))
            view = random_view(Dice("view", case.family, case.seed, 0))
            yield WorldSample(case, mesh, view, voxels, dual_grid_to_mesh(voxels.dual_grid))


class Clock:
    """Seconds of each part of a row, the device's work included."""

    def __init__(self, parts: Sequence[str], device: torch.device) -> None:
        self.seconds, self.device = dict.fromkeys(parts, 0.0), device

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time of a block to `part`."""
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[part] += time.perf_counter() - started


class Rows:
    """Rows of a table that is also a file: those in it are not made again."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns, self.rows = path, list(columns), []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = list(csv.DictReader(file))
            if self.rows and list(self.rows[0]) != self.columns:
                raise SystemExit(
                    f"{path}: expected the columns {columns}, got {list(self.rows[0])}; name another --csv"
                )

    def has(self, **values: str) -> bool:
        """Whether a row with these values is there."""
        return any(all(row[key] == value for key, value in values.items()) for row in self.rows)

    def add(self, row: Mapping[str, object]) -> None:
        """Appends a row, to the file at once."""
        text = {key: f"{value:.5g}" if isinstance(value, float) else str(value) for key, value in row.items()}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow(text)
        self.rows.append(text)

"""A run: a recipe trained in a folder, from the first stage to the packed checkpoint; resumable after a kill.

recipe.json                      the recipe
networks/<role>.json .safetensors  EMA weights of each network after its last finished stage, fp32
<stage>/state.safetensors metrics.csv finished.json
latents_<resolution>/<names>/    the flows' dataset, encoded by the VAEs in networks/
checkpoint/                      the packed checkpoint, for Pipeline.load
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import nn

from ....o_voxel.core.atomic_io import write_files
from ...checkpoint.config import ConfigError
from ..data.dataset import Sample, Source, cached, open_cache, open_source
from ..data.latents import ENCODERS, SLATS, LatentFolder
from ..data.pool import LatentPool, PoolStream, place_of, read_pool
from ..data.stream import Stream, map_in_order, mixed_seed
from ..loop.distributed import DistributedContext
from ..loop.trainer import StageSetup, term_weights, train_stage
from ..recipe import Recipe, StageConfig
from ..tasks import TASKS
from ..tasks.flows import FlowSettings
from ..tasks.task import Task
from .encoding import EncodingSet, encode_objects, encoded, fingerprint
from .export import normalizations, pack, pipeline_arguments
from .networks import make_trainable, network_files, open_network, read_network, resolved, write_network

# on_progress(stage, fraction done, last row of metrics); it may raise to stop the run
StageProgress = Callable[[str, float, Mapping[str, float]], None]


@dataclass(frozen=True, eq=False)
class Run:
    """A recipe, its folder, this process's place among the ranks, and the source of its dataset."""

    recipe: Recipe
    folder: Path
    context: DistributedContext
    source: Source

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        folder: Path,
        context: DistributedContext,
        *,
        resume: bool = False,
        source: Source | None = None,
    ) -> Run:
        """Start a run in a new or empty folder or, with `resume`, continue the one there.

        source: of the dataset; None: the recipe's.  Raises ConfigError if the folder holds a run and `resume` is not
        set, if the recipe differs from that run's in more than data.workers, .cache, .first and stages that have not
        begun, and if a flow's dataset is unlimited; ValueError if the source has no files.
        """
        path, values = folder / "recipe.json", recipe.to_json()
        for name, stage in recipe.stages.items():
            term_weights(TASKS[stage.task], stage)
            if TASKS[stage.task].inputs == "latents" and not recipe.objects(stage):
                raise ConfigError(f"data.objects: the stage {name} needs a number of objects: it keeps their latents")
        if path.exists():
            if not resume:
                raise ConfigError(
                    f"{folder}: a run is there already; continue it with --resume, or choose another folder"
                )
            before = json.loads(path.read_text(encoding="utf-8"))
            ahead = {name for name in recipe.stages if not (folder / name).exists()}
            differing = _differing(before, values, ahead)
            if differing:
                raise ConfigError(
                    f"{folder}: expected the recipe that this run was started with, got other values of "
                    f"{differing[:5]}; restore them, or choose another folder"
                )
        context.barrier()
        if context.is_main:
            # Atomically: stages of one run may start in several processes at once.
            write_files({path: (json.dumps(values, indent=1) + "\n").encode()})
        run = cls(recipe, folder, context, source or open_source(recipe.data.source, recipe.data.around))
        if context.is_main and recipe.data.cache is not None:
            open_cache(run.source, folder / recipe.data.cache)
        return run

    def train(self, stages: Sequence[str] | None = None, on_progress: StageProgress | None = None) -> Path:
        """Run the unfinished stages (None: of all), in order, then pack. Returns the checkpoint's folder."""
        for name in self._known(stages):
            if not self.finished(name):
                self.train_stage(name, on_progress)
        if self.context.is_main:
            pack(self.recipe, self.folder, self.folder / "checkpoint")
        self.context.barrier()
        return self.folder / "checkpoint"

    def make_objects(self, stages: Sequence[str] | None = None, on_progress: StageProgress | None = None) -> None:
        """Fill the cache with the objects of the stages (None: all), divided among the ranks.

        Other processes may train meanwhile; they make the objects that are missing. Raises ConfigError without a cache
        or with an unlimited dataset.
        """
        for name in self._known(stages):
            stage = self.recipe.stages[name]
            if self.recipe.data.cache is None or not self.recipe.objects(stage):
                raise ConfigError(
                    "data.cache, data.objects: expected a folder and a number of objects to fill it with, got "
                    f"{self.recipe.data.cache!r}, {self.recipe.objects(stage)}"
                )
            mine = range(self.context.rank, self.recipe.objects(stage), self.context.world_size)
            make = partial(_make_only, self._maker(stage))
            for done, _ in enumerate(map_in_order(make, mine, self.recipe.data.workers)):
                if on_progress is not None:
                    on_progress(f"objects of {name}", (done + 1) / len(mine), {})

    def make_latents(self, stages: Sequence[str] | None = None, on_progress: StageProgress | None = None) -> None:
        """Encode the flows' datasets of the stages (None: all) with the current VAEs, divided among the ranks."""
        for name in self._known(stages):
            if TASKS[self.recipe.stages[name].task].inputs == "latents":
                self._latents(self.recipe.stages[name], on_progress)

    def _known(self, stages: Sequence[str] | None) -> Sequence[str]:
        """The given stages, or all. Raises ConfigError for a name that is not in the recipe."""
        unknown = sorted(set(stages or ()) - set(self.recipe.stages))
        if unknown:
            raise ConfigError(f"stage: expected some of {list(self.recipe.stages)}, got {unknown}")
        return list(stages or self.recipe.stages)

    def network(self, role: str) -> nn.Module:
        """The current weights of a network, in fp32 on the CPU: of the last finished stage, else the initial ones."""
        files = network_files(self.folder / "networks", role)
        if files[1].exists():
            return read_network(role, *files)
        generator = torch.Generator().manual_seed(mixed_seed(self.recipe.seed, role, 0))
        return open_network(role, self.recipe.network(role), generator)

    def finished(self, name: str) -> bool:
        """True if the stage has run to its last step."""
        return (self.folder / name / "finished.json").exists()

    def train_stage(self, name: str, on_progress: StageProgress | None = None) -> None:
        """Run one stage, from its saved state if there is one."""
        stage, started = self.recipe.stages[name], time.perf_counter()
        kind = TASKS[stage.task]

        def on_step(step: int, steps: int, metrics: Mapping[str, float]) -> None:
            if on_progress is not None:
                on_progress(name, step / steps, metrics)

        if kind.inputs == "latents":
            stream = self._latent_stream(name, on_progress)
            task = self._flow_task(stage)
        else:
            task = kind(*self._networks(stage), stage)
            stream = Stream(self._maker(stage), self.recipe.objects(stage), self.recipe.seed, name)
        train_stage(StageSetup(task, stage, self.recipe.data, stream, self.folder / name), self.context, on_step)
        if self.context.is_main:
            self._finish(name, task, time.perf_counter() - started)
        self.context.barrier()

    def _networks(self, stage: StageConfig) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
        """The networks that a stage trains, and the frozen ones that it needs, on this process's device."""
        kind = TASKS[stage.task]
        trained = {role: make_trainable(self.network(role)) for role in kind.trained(stage)}
        others = [role for role in kind.roles(stage) if role not in trained]
        return trained, {role: self.network(role).to(self.context.device) for role in others}

    def _flow_task(self, stage: StageConfig) -> Task:
        kind, pipeline = TASKS[stage.task], pipeline_arguments(self.recipe)
        trained, frozen = self._networks(stage)
        sigma_min = pipeline["sparse_structure_sampler"]["args"]["sigma_min"]
        statistics, repeat = normalizations(self.recipe, self.folder), stage.image_size // self.recipe.picture(stage)
        return kind(trained, frozen, FlowSettings(stage, statistics, sigma_min, repeat))

    def _latent_stream(self, name: str, on_progress: StageProgress | None) -> Stream | PoolStream:
        """The stream of a flow's dataset: from memory if there is room, growing with data.first, else from files."""
        stage, data, device = self.recipe.stages[name], self.recipe.data, self.context.device
        objects, first = self.recipe.objects(stage), data.first
        if not 0 < first < objects or self.context.world_size > 1:
            latents = self._latents(stage, on_progress)
            place = place_of(latents.path(0).stat().st_size * objects, device)
            if place is None:
                return Stream(latents, objects, self.recipe.seed, name)
            return PoolStream(read_pool(latents, objects, place), objects, self.recipe.seed, name)
        names, make = TASKS[stage.task].learns, self._maker(stage)
        encoders = self._encoders(names)
        found = encoded(encoders, make, range(objects), data, device)
        index, sample = next(found)
        size = sum(part.nbytes for part in (*sample.latents.values(), sample.images))
        place = place_of(size * objects, device)
        if place is None:
            raise ConfigError(f"data.first: {objects} objects of {size} bytes have no room in memory; set it to 0")
        pool = LatentPool(objects, place)
        pool.fill(chain([(index, sample)], found))
        folder, made_by = LatentFolder.of(self.folder, names, stage.resolution), fingerprint(encoders)
        if set(SLATS) <= set(names) and not folder.has_statistics(made_by):
            count = min(first, pool.wait(first))
            folder.write_statistics({key: pool.values(key, count) for key in SLATS}, made_by)
        return PoolStream(pool, first, self.recipe.seed, name)

    def _encoders(self, names: Sequence[str]) -> dict[str, nn.Module]:
        """The current encoders of these latents, on this process's device."""
        return {name: self.network(ENCODERS[name]).to(self.context.device) for name in names}

    def _latents(self, stage: StageConfig, on_progress: StageProgress | None) -> LatentFolder:
        """The latents of a flow's dataset; encodes those that the current VAEs have not."""
        names, objects = TASKS[stage.task].learns, self.recipe.objects(stage)
        latents = LatentFolder.of(self.folder, names, stage.resolution)
        encoders = self._encoders(names)

        def on_encoded(fraction: float) -> None:
            if on_progress is not None:
                on_progress(f"latents: {', '.join(names)}", fraction, {})

        dataset = EncodingSet(self._maker(stage), objects, self.source.fingerprint)
        encode_objects(encoders, dataset, self.recipe.data, latents, self.context, on_encoded)
        return latents

    def _maker(self, stage: StageConfig) -> Callable[[int], Sample]:
        """make(index) of a stage's dataset, picklable for worker processes."""
        views = self.recipe.views(stage) if TASKS[stage.task].inputs == "latents" else 0
        size = {"resolution": stage.resolution, "image_size": self.recipe.picture(stage), "views": views}
        size["materials"] = TASKS[stage.task].materials
        if self.recipe.data.cache is None:
            return partial(self.source, **size)
        return partial(cached, self.source, self.folder / self.recipe.data.cache, **size)

    def _finish(self, name: str, task: Task, seconds: float) -> None:
        """Write a finished stage's networks, then the file that marks it as finished."""
        for role, model in task.networks.items():
            description = resolved(role, self.recipe.network(role))
            write_network(model, description, network_files(self.folder / "networks", role), "float32")
        done = {"stage": name, "seconds_of_this_start": round(seconds, 1), "cards": self.context.world_size}
        write_files({self.folder / name / "finished.json": (json.dumps(done) + "\n").encode()})


def _make_only(make: Callable[[int], Sample], index: int) -> int:
    """Make an object for the cache and return its index, which is cheap to send back to the main process."""
    make(index)
    return index


def _differing(before: Mapping[str, object], now: Mapping[str, object], ahead: Set[str]) -> list[str]:
    """The keys whose values differ between two recipes and may not. ahead: stages that have not begun."""
    free = ("data.workers", "data.cache", "data.first", *(f"stages.{name}." for name in ahead))
    flat = [dict(_flattened(recipe)) for recipe in (before, now)]
    keys = (key for key in {*flat[0], *flat[1]} if not key.startswith(free))
    return sorted(key for key in keys if flat[0].get(key) != flat[1].get(key))


def _flattened(value: object, path: str = "") -> list[tuple[str, object]]:
    if not isinstance(value, Mapping):
        return [(path, value)]
    return [pair for key, inner in value.items() for pair in _flattened(inner, f"{path}.{key}" if path else key)]


__all__ = ["Run", "StageProgress"]

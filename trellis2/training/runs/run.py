"""A recipe from its first stage to the packed checkpoint. A run is a folder; killed, it goes on where it was.

recipe.json                      what it was started with
networks/<role>.json .safetensors  each network as the last finished stage left it, averaged weights, fp32
<stage>/state.safetensors metrics.csv finished.json
latents_<resolution>/<names>/    what the flows learn from, encoded by the VAEs of networks/
checkpoint/                      the published layout, for Pipeline.load
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ...checkpoint.config import ConfigError
from ..data.dataset import Example, Source, cached, open_source
from ..data.latents import ENCODERS, LatentFolder, encode_objects
from ..data.stream import Stream, in_order, mixed_seed
from ..loop.distributed import Team
from ..loop.trainer import Work, term_weights, train_stage
from ..recipe import Recipe, StageConfig
from ..tasks.flows import FlowSetting
from ..tasks.registry import TASKS
from ..tasks.task import Task
from .export import normalizations, pack, pipeline_arguments
from .networks import make_trainable, network_files, open_network, read_network, resolved, write_network

# report(stage, fraction done, metrics of the last row); it may raise to stop
StageReport = Callable[[str, float, Mapping[str, float]], None]


@dataclass(frozen=True, eq=False)
class Run:
    """A recipe on its way in a folder. source: of its objects; the one that the recipe names, unless given."""

    recipe: Recipe
    folder: Path
    team: Team
    source: Source

    @classmethod
    def open(
        cls, recipe: Recipe, folder: Path, team: Team, *, resume: bool = False, source: Source | None = None
    ) -> Run:
        """Start a run in a new or empty folder or, with `resume`, go on with the one there.

        Raises ConfigError where a folder holds another run, or the recipe differs from the one that it was started
        with in more than where examples are kept, who makes them, and stages that have not begun.
        """
        path, told = folder / "recipe.json", recipe.to_json()
        for name, stage in recipe.stages.items():
            term_weights(TASKS[stage.task], stage)
            if TASKS[stage.task].inputs == "latents" and not recipe.objects(stage):
                raise ConfigError(f"data.objects: the stage {name} needs a number of objects, whose latents are kept")
        if path.exists():
            if not resume:
                raise ConfigError(f"{folder}: a run is there already; go on with --resume, or name another folder")
            before = json.loads(path.read_text(encoding="utf-8"))
            ahead = {name for name in recipe.stages if not (folder / name).exists()}
            differing = _differing(before, told, ahead)
            if differing:
                raise ConfigError(f"{folder}: it was started with another recipe; what differs: {differing[:5]}")
        team.barrier()
        if team.leads:
            folder.mkdir(parents=True, exist_ok=True)
            # Whole at once: stages may be started beside each other.
            written = path.with_name(f"recipe.{os.getpid()}.partial")
            written.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            written.replace(path)
        return cls(recipe, folder, team, source or open_source(recipe.data.source))

    def train(self, stages: Sequence[str] | None = None, report: StageReport | None = None) -> Path:
        """Run the stages that are not finished (of `stages`, where given), then pack. Returns the checkpoint."""
        for name in self._known(stages):
            if not self.finished(name):
                self.train_stage(name, report)
        if self.team.leads:
            pack(self.recipe, self.folder, self.folder / "checkpoint")
        self.team.barrier()
        return self.folder / "checkpoint"

    def make_objects(self, stages: Sequence[str] | None = None, report: StageReport | None = None) -> None:
        """Fill the cache with the objects of all stages (of `stages`, where given), each card its share. Other
        processes may train meanwhile: they make what they need and is not there yet. Raises ConfigError without a
        cache or a number of objects."""
        for name in self._known(stages):
            stage = self.recipe.stages[name]
            if self.recipe.data.cache is None or not self.recipe.objects(stage):
                raise ConfigError("data.cache, data.objects: expected a folder and a number, to make objects ahead")
            mine = range(self.team.card, self.recipe.objects(stage), self.team.cards)
            make = partial(_made, self._maker(stage))
            for done, _ in enumerate(in_order(make, mine, self.recipe.data.workers)):
                if report is not None:
                    report(f"objects of {name}", (done + 1) / len(mine), {})

    def make_latents(self, stages: Sequence[str] | None = None, report: StageReport | None = None) -> None:
        """Encode what the flows (of `stages`, where given) learn from, with the VAEs of now, each card its share."""
        for name in self._known(stages):
            if TASKS[self.recipe.stages[name].task].inputs == "latents":
                self._latents(self.recipe.stages[name], report)

    def _known(self, stages: Sequence[str] | None) -> Sequence[str]:
        """The stages that are asked for, or all."""
        unknown = sorted(set(stages or ()) - set(self.recipe.stages))
        if unknown:
            raise ConfigError(f"stage: expected some of {list(self.recipe.stages)}, got {unknown}")
        return list(stages or self.recipe.stages)

    def network(self, role: str) -> nn.Module:
        """A network as the run has it by now, in fp32 on the CPU."""
        files = network_files(self.folder / "networks", role)
        if files[1].exists():
            return read_network(role, *files)
        generator = torch.Generator().manual_seed(mixed_seed(self.recipe.seed, role, 0))
        return open_network(role, self.recipe.network(role), generator)

    def finished(self, name: str) -> bool:
        """Whether a stage has run to its end."""
        return (self.folder / name / "finished.json").exists()

    def train_stage(self, name: str, report: StageReport | None = None) -> None:
        """Run one stage, from where it stopped if it did."""
        stage, started = self.recipe.stages[name], time.perf_counter()
        kind = TASKS[stage.task]

        def told(step: int, steps: int, metrics: Mapping[str, float]) -> None:
            if report is not None:
                report(name, step / steps, metrics)

        if kind.inputs == "latents":
            make = self._latents(stage, report)
            task = self._flow_task(stage)
        else:
            trained = {role: make_trainable(self.network(role)) for role in kind.roles(stage)}
            task, make = kind(trained), self._maker(stage)
        stream = Stream(make, self.recipe.objects(stage), self.recipe.seed, name)
        train_stage(Work(task, stage, self.recipe.data, stream, self.folder / name), self.team, told)
        if self.team.leads:
            self._finish(name, task, time.perf_counter() - started)
        self.team.barrier()

    def _flow_task(self, stage: StageConfig) -> Task:
        kind, pipeline = TASKS[stage.task], pipeline_arguments(self.recipe)
        trained = {role: make_trainable(self.network(role)) for role in kind.trained(stage)}
        others = [role for role in kind.roles(stage) if role not in trained]
        frozen = {role: self.network(role).to(self.team.device) for role in others}
        sigma_min = pipeline["sparse_structure_sampler"]["args"]["sigma_min"]
        statistics, repeat = normalizations(self.recipe, self.folder), stage.image_size // self.recipe.picture(stage)
        return kind(trained, frozen, FlowSetting(stage, statistics, sigma_min, repeat))

    def _latents(self, stage: StageConfig, report: StageReport | None) -> LatentFolder:
        """The latents of all objects of a flow, unless the VAEs of now have made them already."""
        names, objects = TASKS[stage.task].learns, self.recipe.objects(stage)
        latents = LatentFolder.of(self.folder, names, stage.resolution)
        encoders = {name: self.network(ENCODERS[name]).to(self.team.device) for name in names}

        def told(fraction: float) -> None:
            if report is not None:
                report(f"latents: {', '.join(names)}", fraction, {})

        encode_objects(encoders, self._maker(stage), objects, self.recipe.data, latents, self.team, told)
        return latents

    def _maker(self, stage: StageConfig) -> Callable[[int], Example]:
        """make(index) of a stage's objects, for this process and for others."""
        views = self.recipe.views(stage) if TASKS[stage.task].inputs == "latents" else 0
        size = {"resolution": stage.resolution, "image_size": self.recipe.picture(stage), "views": views}
        if self.recipe.data.cache is None:
            return partial(self.source, **size)
        return partial(cached, self.source, self.folder / self.recipe.data.cache, **size)

    def _finish(self, name: str, task: Task, seconds: float) -> None:
        for role, model in task.networks.items():
            description = resolved(role, self.recipe.network(role))
            write_network(model, description, network_files(self.folder / "networks", role), "float32")
        done = {"stage": name, "seconds_of_this_start": round(seconds, 1), "cards": self.team.cards}
        (self.folder / name / "finished.json").write_text(json.dumps(done) + "\n", encoding="utf-8")


def _made(make: Callable[[int], Example], index: int) -> int:
    """Make an object for the cache alone."""
    make(index)
    return index


def _differing(before: Mapping[str, object], now: Mapping[str, object], ahead: Set[str]) -> list[str]:
    """The keys of two recipes that differ and matter. ahead: stages that have not begun."""
    free = ("data.workers", "data.cache", *(f"stages.{name}." for name in ahead))
    flat = [dict(_flattened(recipe)) for recipe in (before, now)]
    keys = (key for key in {*flat[0], *flat[1]} if not key.startswith(free))
    return sorted(key for key in keys if flat[0].get(key) != flat[1].get(key))


def _flattened(value: object, path: str = "") -> list[tuple[str, object]]:
    if not isinstance(value, Mapping):
        return [(path, value)]
    return [pair for key, inner in value.items() for pair in _flattened(inner, f"{path}.{key}" if path else key)]


__all__ = ["Run", "StageReport"]

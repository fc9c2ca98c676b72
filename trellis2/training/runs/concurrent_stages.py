"""A run on several devices: what does not build on each other is done at once, each job on a device of its own.

What a job waits for follows from the recipe: a stage for the stages before it that train a network it needs, or that
need a network it trains; latents for their encoders. So the networks are those of the stages one after the other.
"""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Literal

import torch

from ..data.latents import ENCODERS
from ..loop.distributed import Team
from ..loop.trainer import TrainingError
from ..recipe import Recipe
from ..tasks.flows import FlowTask
from ..tasks.registry import TASKS
from .export import pack
from .run import Run, StageReport

WAIT = 0.5  # seconds between looks at the processes


@dataclass(frozen=True)
class Job:
    """A process's work for a stage. needs: names of the jobs that come first."""

    name: str
    stage: str
    kind: Literal["objects", "latents", "train"]
    needs: frozenset[str]

    def run(self, recipe: Recipe, folder: Path, device: str, told: Queue) -> None:
        """Do it, in a process of its own."""
        chosen = torch.device(device)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        run = Run.open(recipe, folder, Team(chosen), resume=True)
        report = partial(_tell, told)
        if self.kind == "train":
            run.train_stage(self.stage, report)
        else:
            (run.make_objects if self.kind == "objects" else run.make_latents)([self.stage], report)


def jobs_of(recipe: Recipe, finished: Sequence[str] = ()) -> list[Job]:
    """The jobs of all stages but the finished ones, in an order in which they could run one by one."""
    jobs: list[Job] = []
    trainers: dict[str, str] = {}  # of a network: the last stage that trains it
    users: dict[str, set[str]] = {}  # the stages that need it
    made: dict[tuple[int, ...], tuple[str, int]] = {}  # of objects of a kind: the last job that makes them, how many
    encoded: dict[tuple[object, ...], str] = {}  # of a folder of latents: the job that fills it
    for name, stage in recipe.stages.items():
        task = TASKS[stage.task]
        trained, needs = task.trained(stage), set()
        encoders = [ENCODERS[latent] for latent in task.learns] if issubclass(task, FlowTask) else []
        for role in task.roles(stage):
            needs |= {trainers[role]} if role in trainers else set()
            needs |= users.get(role, set()) if role in trained else set()
        for role in (*task.roles(stage), *encoders):
            users.setdefault(role, set()).add(name)
        if encoders:
            before = {trainers[role] for role in encoders if role in trainers}
            if recipe.data.cache is not None:
                kind, count = (stage.resolution, recipe.picture(stage), recipe.views(stage)), recipe.objects(stage)
                if kind not in made or made[kind][1] < count:
                    jobs.append(Job(f"objects of {name}", name, "objects", frozenset()))
                    made[kind] = (jobs[-1].name, count)
                before.add(made[kind][0])
            folder = (*task.learns, stage.resolution)
            before |= {encoded[folder]} if folder in encoded else set()
            jobs.append(Job(f"latents of {name}", name, "latents", frozenset(before)))
            encoded[folder] = jobs[-1].name
            needs.add(jobs[-1].name)
        jobs.append(Job(name, name, "train", frozenset(needs)))
        trainers.update(dict.fromkeys(trained, name))
    left = [job for job in jobs if job.stage not in finished]
    there = {job.name for job in left}
    return [Job(job.name, job.stage, job.kind, job.needs & there) for job in left]


def train_beside(
    recipe: Recipe, folder: Path, devices: Sequence[str], *, resume: bool = False, report: StageReport | None = None
) -> Path:
    """Run all stages on these devices, one job on each at a time, and objects made ahead beside them. Returns the
    checkpoint. Raises TrainingError when a process fails; the others are stopped, and `resume` goes on."""
    run = Run.open(recipe, folder, Team(torch.device("cpu")), resume=resume)
    waiting = jobs_of(recipe, [name for name in recipe.stages if run.finished(name)])
    context, done, free = get_context("spawn"), set(), list(devices)
    told, running = context.Queue(), {}
    try:
        while waiting or running:
            for job in [job for job in waiting if job.needs <= done]:
                making = any(other.kind == "objects" for other, _ in running.values())
                if making if job.kind == "objects" else not free:
                    continue
                device = "cpu" if job.kind == "objects" else free.pop(0)
                process = context.Process(target=job.run, args=(recipe, folder, device, told), name=job.name)
                process.start()
                waiting.remove(job)
                running[process] = (job, device)
            _listen(told, report)
            for process in [process for process in running if process.exitcode is not None]:
                job, device = running.pop(process)
                if process.exitcode:
                    raise TrainingError(f"{job.name}: its process ended with code {process.exitcode}, see above")
                done.add(job.name)
                free += [device] if job.kind != "objects" else []
    finally:
        _stop(running)
    return pack(recipe, folder, folder / "checkpoint")


def _tell(told: Queue, stage: str, fraction: float, metrics: Mapping[str, float]) -> None:
    told.put((stage, fraction, dict(metrics)))


def _listen(told: Queue, report: StageReport | None) -> None:
    """Pass on what the processes say, for a moment at least."""
    wait = WAIT
    while True:
        try:
            message = told.get(timeout=wait)
        except queue.Empty:
            return
        wait = 0.0
        if report is not None:
            report(*message)


def _stop(processes: Mapping[BaseProcess, object]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


__all__ = ["Job", "jobs_of", "train_beside"]

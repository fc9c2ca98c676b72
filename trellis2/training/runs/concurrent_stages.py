"""Independent stages of a run trained concurrently, one process a device.

The dependencies follow from the recipe: a stage waits for earlier stages that train a network it needs, and for those
that need a network it trains; latents wait for their encoders. The result therefore equals that of a sequential run.
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
from ..loop.distributed import DistributedContext
from ..loop.trainer import TrainingError
from ..recipe import Recipe
from ..tasks import TASKS
from ..tasks.flows import FlowTask
from .export import pack
from .run import Run, StageProgress

POLL_SECONDS = 0.5  # between checks of the processes


@dataclass(frozen=True)
class Job:
    """A part of a stage that one process does. needs: names of the jobs that must finish first."""

    name: str
    stage: str
    kind: Literal["objects", "latents", "train"]
    needs: frozenset[str]

    def run(self, recipe: Recipe, folder: Path, device: str, messages: Queue) -> None:
        """Do the job; the entry point of its process. Progress goes to `messages`."""
        chosen = torch.device(device)
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        run = Run.open(recipe, folder, DistributedContext(chosen), resume=True)
        on_progress = partial(_send, messages)
        if self.kind == "train":
            run.train_stage(self.stage, on_progress)
        else:
            (run.make_objects if self.kind == "objects" else run.make_latents)([self.stage], on_progress)


def plan_jobs(recipe: Recipe, finished: Sequence[str] = ()) -> list[Job]:
    """The jobs of all stages but the finished ones, in an order that satisfies their dependencies."""
    jobs: list[Job] = []
    trainers: dict[str, str] = {}  # role -> the last stage that trains it
    users: dict[str, set[str]] = {}  # role -> the stages that need it
    # (resolution, picture, views, materials) of cached objects -> the last job that makes such, and their number
    made: dict[tuple[int, ...], tuple[str, int]] = {}
    encoded: dict[tuple[object, ...], str] = {}  # folder of latents -> the last job that fills it
    for name, stage in recipe.stages.items():
        task = TASKS[stage.task]
        trained, needs = task.trained(stage), set()
        encoders = [ENCODERS[latent] for latent in task.learns] if issubclass(task, FlowTask) else []
        for role in task.roles(stage):
            needs |= {trainers[role]} if role in trainers else set()
            needs |= users.get(role, set()) if role in trained else set()
        for role in (*task.roles(stage), *encoders):
            users.setdefault(role, set()).add(name)
        before = {trainers[role] for role in encoders if role in trainers}
        if recipe.data.first:
            needs |= before  # the stage encodes its objects itself, while it trains
        elif encoders:
            if recipe.data.cache is not None:
                kind = (stage.resolution, recipe.picture(stage), recipe.views(stage), task.materials)
                count = recipe.objects(stage)
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
    remaining = [job for job in jobs if job.stage not in finished]
    names = {job.name for job in remaining}
    return [Job(job.name, job.stage, job.kind, job.needs & names) for job in remaining]


def train_concurrently(
    recipe: Recipe,
    folder: Path,
    devices: Sequence[str],
    *,
    resume: bool = False,
    on_progress: StageProgress | None = None,
) -> Path:
    """Run all stages on these devices, one job a device, while another process fills the cache of objects on the CPU.

    Returns the checkpoint's folder. Raises TrainingError when a process fails; the others are then terminated, and a
    call with `resume` continues the run.
    """
    run = Run.open(recipe, folder, DistributedContext(torch.device("cpu")), resume=resume)
    waiting = plan_jobs(recipe, [name for name in recipe.stages if run.finished(name)])
    spawn, done, free = get_context("spawn"), set(), list(devices)
    messages, running = spawn.Queue(), {}
    try:
        while waiting or running:
            for job in [job for job in waiting if job.needs <= done]:
                making = any(other.kind == "objects" for other, _ in running.values())
                if making if job.kind == "objects" else not free:
                    continue
                device = "cpu" if job.kind == "objects" else free.pop(0)
                process = spawn.Process(target=job.run, args=(recipe, folder, device, messages), name=job.name)
                process.start()
                waiting.remove(job)
                running[process] = (job, device)
            _forward(messages, on_progress)
            for process in [process for process in running if process.exitcode is not None]:
                job, device = running.pop(process)
                if process.exitcode:
                    raise TrainingError(f"{job.name}: its process ended with code {process.exitcode}, see above")
                done.add(job.name)
                free += [device] if job.kind != "objects" else []
    finally:
        _stop(running)
    return pack(recipe, folder, folder / "checkpoint")


def _send(messages: Queue, stage: str, fraction: float, metrics: Mapping[str, float]) -> None:
    messages.put((stage, fraction, dict(metrics)))


def _forward(messages: Queue, on_progress: StageProgress | None) -> None:
    """Forward the queued progress messages; waits up to POLL_SECONDS for the first."""
    wait = POLL_SECONDS
    while True:
        try:
            message = messages.get(timeout=wait)
        except queue.Empty:
            return
        wait = 0.0
        if on_progress is not None:
            on_progress(*message)


def _stop(processes: Mapping[BaseProcess, object]) -> None:
    """Terminate the processes and wait for their ends."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()


__all__ = ["Job", "plan_jobs", "train_concurrently"]

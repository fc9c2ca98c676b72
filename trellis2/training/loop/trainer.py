"""One loop for every task: AdamW, warm-up and cosine, clipping, averaged weights, a file to go on from."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ...checkpoint.config import ConfigError
from ..data.stream import Batch, Positions, Stream, loader, to_device
from ..recipe import DataConfig, StageConfig
from ..runs.networks import compile_parts
from ..tasks.task import Task
from .distributed import Team
from .state import Average, load_state, save_state, trained_parameters

# report(step, steps, metrics of the last rows) after every step; it may raise to stop
Report = Callable[[int, int, Mapping[str, float]], None]


class TrainingError(ValueError):
    """A run that cannot go on: its loss is no number."""


@dataclass(frozen=True, eq=False)
class Work:
    """What the loop needs. folder: of the stage, with state.safetensors and metrics.csv."""

    task: Task
    stage: StageConfig
    data: DataConfig
    stream: Stream
    folder: Path

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.csv"


def learning_rate(stage: StageConfig, step: int) -> float:
    """Of step number `step`, from 0: a linear rise over `warmup` steps, then half a cosine down to the final rate."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    share = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return stage.learning_rate * (stage.final_rate + (1 - stage.final_rate) * falling)


def term_weights(task: type[Task], stage: StageConfig) -> dict[str, float]:
    """What each term counts. Raises ConfigError for a term that the task does not have."""
    unknown = sorted(set(stage.weights) - set(task.weights))
    if unknown:
        raise ConfigError(f"weights of {stage.task}: expected terms among {list(task.weights)}, got {unknown}")
    return {**task.weights, **stage.weights}


def train_stage(work: Work, team: Team, report: Report | None = None) -> None:
    """Train until the stage's last step, from the saved state where there is one; the task's parameters are then the
    averaged ones. Raises TrainingError for a loss that is not finite."""
    stage, task = work.stage, work.task
    task.to(team.device)
    compile_parts(task, team.device)
    optimizer = make_optimizer(task, stage)
    average = Average(task, stage.ema)
    start = load_state(work.state_path, task, average, optimizer) if work.state_path.exists() else 0
    micro_batch = stage.micro_batch or max(1, stage.batch // team.cards)
    positions = Positions(start, stage.batch, micro_batch, team.card, team.cards)
    metrics = Metrics(work.metrics_path if team.leads else None, start, team)
    model = team.parallel(task)
    batches: Iterator[Batch] = iter(())
    if start < stage.steps:
        collate = Collate(type(task), work.data, stage)
        batches = iter(loader(work.stream, positions, collate, work.data.workers, pin=team.device.type == "cuda"))
    for step in range(start, stage.steps):
        rate = learning_rate(stage, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        terms = accumulate(model, batches, positions.micro_batches, stage, team)
        norm = nn.utils.clip_grad_norm_(task.parameters(), stage.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        metrics.add({**terms, "gradient_norm": norm.detach()})
        saving = (step + 1) % stage.save_every == 0 or step + 1 == stage.steps
        if saving or (step + 1) % stage.log_every == 0:
            metrics.write(step + 1, rate)
        if saving and team.leads:
            save_state(work.state_path, task, average, optimizer, step + 1)
        if report is not None:
            report(step + 1, stage.steps, metrics.last)
    team.barrier()
    average.copy_to_module()


def accumulate(
    model: nn.Module, batches: Iterator[Batch], count: int, stage: StageConfig, team: Team
) -> dict[str, Tensor]:
    """Gradients of one step's loss, taken over `count` micro-batches; returns the loss and its terms, detached."""
    weights = term_weights(type(getattr(model, "module", model)), stage)
    total: dict[str, Tensor] = {}
    for k in range(count):
        batch = to_device(next(batches), team.device)
        # Gradients travel between cards once a step.
        waiting = model.no_sync() if team.cards > 1 and k + 1 < count else nullcontext()
        with waiting:
            with precision(team.device):
                terms = model(batch)
            loss = sum(weights[name] * term for name, term in terms.items())
            (loss / count).backward()
        for name, term in {"loss": loss, **terms}.items():
            total[name] = total.get(name, 0.0) + term.detach() / count
    return total


def precision(device: torch.device) -> AbstractContextManager:
    """bfloat16 matrix products on a GPU, fp32 on the CPU; weights, norms and sums are fp32 on both."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def make_optimizer(task: nn.Module, stage: StageConfig) -> AdamW:
    """AdamW over the trained parameters; only matrices decay, gains and biases do not."""
    parameters = trained_parameters(task).values()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    on_gpu = any(p.is_cuda for p in parameters)
    return AdamW(groups, lr=stage.learning_rate, betas=tuple(stage.betas), fused=on_gpu or None)


@dataclass(frozen=True)
class Collate:
    """A task's collate with its settings, for worker processes."""

    task: type[Task]
    data: DataConfig
    stage: StageConfig

    def __call__(self, items: list) -> Batch:
        return self.task.collate(items, self.data, self.stage)


class Metrics:
    """Rows of means over steps, in a CSV file that ends where the run does: a run that goes on from step s drops the
    rows after s. path: None on the cards that do not write."""

    def __init__(self, path: Path | None, start: int, team: Team) -> None:
        self.path, self.team, self.last = path, team, {}
        self._sums: dict[str, Tensor] = {}
        self._steps, self._since = 0, time.perf_counter()
        if path is not None and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
            path.unlink()
            for row in kept:
                self._append(row)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """One step's values; they stay on the device."""
        self._sums = {name: value + self._sums.get(name, 0.0) for name, value in values.items()}
        self._steps += 1

    def write(self, step: int, rate: float) -> None:
        """The mean since the last row, over all cards. Raises TrainingError when it is not finite."""
        means = self.team.mean(torch.stack([value.double() for value in self._sums.values()])) / self._steps
        values = dict(zip(self._sums, means.tolist(), strict=True))
        if not all(math.isfinite(value) for value in values.values()):
            raise TrainingError(f"step {step}: a loss is not finite: {values}; lower the learning rate")
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        self.last = {"step": step, **values, "learning_rate": rate, "seconds": round(seconds / self._steps, 4)}
        self._sums, self._steps = {}, 0
        if self.path is not None:
            self._append(self.last)

    def _append(self, row: Mapping[str, object]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


__all__ = ["Report", "TrainingError", "Work", "learning_rate", "term_weights", "train_stage"]

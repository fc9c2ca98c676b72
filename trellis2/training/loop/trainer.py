"""The training loop of all tasks: AdamW, warm-up and cosine decay, gradient clipping, EMA, resumable state."""

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
from ..data.batches import Batch, to_device
from ..data.pool import LatentPool, PoolStream
from ..data.stream import Positions, Stream, make_loader
from ..recipe import DataConfig, StageConfig
from ..tasks.task import Task
from .compilation import FIRST_STEPS, TRACING, compile_parts
from .distributed import DistributedContext
from .state import EMA, load_state, save_state, trained_parameters

# on_progress(steps done, steps, last row of metrics) after every step; it may raise to stop the run
StepProgress = Callable[[int, int, Mapping[str, float]], None]


class TrainingError(ValueError):
    """Training failed: a loss that is not finite, or a process that ended with an error."""


@dataclass(frozen=True, eq=False)
class StageSetup:
    """The inputs of the loop. folder: the stage's, with state.safetensors and metrics.csv.  stream: of samples, from
    which processes collate batches, or of a pool that makes them."""

    task: Task
    stage: StageConfig
    data: DataConfig
    stream: Stream | PoolStream
    folder: Path

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    @property
    def metrics_path(self) -> Path:
        return self.folder / "metrics.csv"


def learning_rate(stage: StageConfig, step: int) -> float:
    """Learning rate of step number `step`, from 0: linear warm-up, then cosine decay to learning_rate * final_rate."""
    if step < stage.warmup:
        return stage.learning_rate * (step + 1) / stage.warmup
    progress = (step - stage.warmup) / max(1, stage.steps - stage.warmup)
    decay = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return stage.learning_rate * (stage.final_rate + (1 - stage.final_rate) * decay)


def term_weights(task: type[Task], stage: StageConfig) -> dict[str, float]:
    """Weight of each term of the loss. Raises ConfigError for a term that the task does not have."""
    unknown = sorted(set(stage.weights) - set(task.weights))
    if unknown:
        raise ConfigError(f"weights of {stage.task}: expected terms among {list(task.weights)}, got {unknown}")
    return {**task.weights, **stage.weights}


def train_stage(setup: StageSetup, context: DistributedContext, on_progress: StepProgress | None = None) -> None:
    """Train to the stage's last step, from its saved state if there is one, and leave the EMA weights in the task.

    Raises TrainingError for a loss that is not finite, CheckpointError for the state of other networks.
    """
    stage, task = setup.stage, setup.task
    task.to(context.device)
    compile_parts(task, context.device)
    optimizer = make_optimizer(task, stage)
    ema = EMA(task, stage.ema)
    start = load_state(setup.state_path, task, ema, optimizer) if setup.state_path.exists() else 0
    micro_batch = stage.micro_batch or max(1, stage.batch // context.world_size)
    positions = Positions(start, stage.batch, micro_batch, context.rank, context.world_size)
    metrics = MetricsWriter(setup.metrics_path if context.is_main else None, start, context)
    model = context.parallel(task)
    batches: Iterator[Batch] = iter(())
    if isinstance(setup.stream, PoolStream):
        metrics.pool = setup.stream.pool
    if start < stage.steps:
        batches = metrics.timed(make_batches(setup, positions, context.device))
    for step in range(start, stage.steps):
        rate = learning_rate(stage, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        compiles = step < start + FIRST_STEPS
        terms = accumulate(model, batches, positions.micro_batches, stage, context, compiles=compiles)
        norm = nn.utils.clip_grad_norm_(task.parameters(), stage.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(step)
        metrics.add({**terms, "gradient_norm": norm.detach()})
        saving = (step + 1) % stage.save_every == 0 or step + 1 == stage.steps
        if saving or (step + 1) % stage.log_every == 0:
            metrics.write(step + 1, rate)
        if saving and context.is_main:
            save_state(setup.state_path, task, ema, optimizer, step + 1)
        if on_progress is not None:
            on_progress(step + 1, stage.steps, metrics.last)
    context.barrier()
    ema.copy_to_module()


def make_batches(setup: StageSetup, positions: Positions, device: torch.device) -> Iterator[Batch]:
    """The batches of the stage's stream: of a pool on `device`, of samples in pinned memory for it."""
    if isinstance(setup.stream, PoolStream):
        kind = type(setup.task)
        return setup.stream.batches(positions, kind.latents, kind.drawn, setup.stage, device)
    collate = Collate(type(setup.task), setup.data, setup.stage)
    return iter(make_loader(setup.stream, positions, collate, setup.data.workers, pin=device.type == "cuda"))


def accumulate(
    model: nn.Module,
    batches: Iterator[Batch],
    count: int,
    stage: StageConfig,
    context: DistributedContext,
    *,
    compiles: bool = False,
) -> dict[str, Tensor]:
    """Accumulate one step's gradients over `count` micro-batches; returns the mean loss and terms, detached scalars.

    compiles: parts of the model are compiled in this step."""
    weights = term_weights(type(getattr(model, "module", model)), stage)
    total: dict[str, Tensor] = {}
    for k in range(count):
        batch = to_device(next(batches), context.device)
        # All-reduce the gradients with the last micro-batch only.
        sync = model.no_sync() if context.world_size > 1 and k + 1 < count else nullcontext()
        with sync, TRACING if compiles else nullcontext():
            with precision(context.device):
                terms = model(batch)
            loss = sum(weights[name] * term for name, term in terms.items())
            (loss / count).backward()
        for name, term in {"loss": loss, **terms}.items():
            total[name] = total.get(name, 0.0) + term.detach() / count
    return total


def precision(device: torch.device) -> AbstractContextManager:
    """Autocast to bf16 on a GPU, nothing on the CPU; weights, norms and reductions are fp32 on both."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def make_optimizer(task: nn.Module, stage: StageConfig) -> AdamW:
    """AdamW over the trained parameters, with weight decay of matrices but not of gains and biases."""
    parameters = trained_parameters(task).values()
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    on_gpu = any(p.is_cuda for p in parameters)
    return AdamW(groups, lr=stage.learning_rate, betas=tuple(stage.betas), fused=on_gpu or None)


@dataclass(frozen=True)
class Collate:
    """A task's collate with its configs bound, picklable for the loader's workers."""

    task: type[Task]
    data: DataConfig
    stage: StageConfig

    def __call__(self, items: list) -> Batch:
        return self.task.collate(items, self.data, self.stage)


class MetricsWriter:
    """Means over steps as rows of a CSV file. A run resumed at step s drops the rows after s.

    path: None on the ranks that do not write.
    """

    def __init__(self, path: Path | None, start: int, context: DistributedContext) -> None:
        self.path, self.context, self.last = path, context, {}
        self.pool: LatentPool | None = None  # then its number of objects is a column
        self._sums: dict[str, Tensor] = {}
        self._steps, self._since, self._waited = 0, time.perf_counter(), 0.0
        if path is not None and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
            path.unlink()
            for row in kept:
                self._append(row)

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add one step's scalars; they stay on the device, without a synchronisation."""
        self._sums = {name: value + self._sums.get(name, 0.0) for name, value in values.items()}
        self._steps += 1

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time that the loop waits for them goes into the column `waiting`."""
        while True:
            started = time.perf_counter()
            batch = next(batches)
            self._waited += time.perf_counter() - started
            yield batch

    def write(self, step: int, rate: float) -> None:
        """Write the means since the last row, over all ranks. Raises TrainingError for one that is not finite."""
        means = self.context.mean(torch.stack([value.double() for value in self._sums.values()])) / self._steps
        values = dict(zip(self._sums, means.tolist(), strict=True))
        if not all(math.isfinite(value) for value in values.values()):
            raise TrainingError(f"step {step}: a loss is not finite: {values}; lower the learning rate")
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        times = {"seconds": round(seconds / self._steps, 4), "waiting": round(self._waited / self._steps, 4)}
        objects = {} if self.pool is None else {"objects": self.pool.count}
        self.last = {"step": step, **values, "learning_rate": rate, **times, **objects}
        self._sums, self._steps, self._waited = {}, 0, 0.0
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


__all__ = ["StageSetup", "StepProgress", "TrainingError", "learning_rate", "term_weights", "train_stage"]

"""The state of a stage: averaged weights, the optimiser's moments, and one file that holds it all.

Data and noise follow from the step (see `data`), so there is no other state: no random generator, no position.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ...checkpoint.weights import CheckpointError, read_metadata, read_tensors, save_weights

MOMENTS = ("exp_avg", "exp_avg_sq")


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Those that ask for a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class Average:
    """Exponential moving average of a module's trained parameters, in fp32. Early on it forgets faster, so that the
    start does not stay in it: decay min(decay, (1 + step) / (10 + step))."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = trained_parameters(module)
        self.values = {name: parameter.detach().clone().float() for name, parameter in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [parameter.detach().float() for parameter in self._live.values()]
        torch._foreach_lerp_(list(self.values.values()), live, 1 - decay)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Set the module's parameters to their averages."""
        for name, parameter in self._live.items():
            parameter.copy_(self.values[name])


def save_state(path: Path, module: nn.Module, average: Average, optimizer: AdamW, step: int) -> None:
    """Write everything that the next step needs, whole or not at all. step: how many are done."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(module).items():
        tensors[f"model.{name}"] = parameter.detach()
        tensors[f"average.{name}"] = average.values[name]
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    save_weights(tensors, path, {"step": str(step)})


def saved_step(path: Path) -> int:
    """How many steps the state at `path` has behind it; 0 where there is none."""
    return int(read_metadata(path)["step"]) if path.exists() else 0


@torch.no_grad()
def load_state(path: Path, module: nn.Module, average: Average, optimizer: AdamW) -> int:
    """Set what `save_state` wrote, and return the step. Raises CheckpointError where it is of another network."""
    tensors, step = read_tensors(path), saved_step(path)
    parameters = trained_parameters(module)
    wanted = {f"{part}.{name}" for part in ("model", "average", *MOMENTS) for name in parameters}
    if set(tensors) != wanted:
        odd = sorted(set(tensors) ^ wanted)
        raise CheckpointError(f"{path}: it is the state of other networks; of {len(odd)} keys that differ: {odd[:5]}")
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"model.{name}"])
        average.values[name].copy_(tensors[f"average.{name}"])
        optimizer.state[parameter] = _moments(tensors, name, parameter, step)
    return step


def _moments(tensors: Mapping[str, Tensor], name: str, parameter: Tensor, step: int) -> dict[str, Tensor]:
    moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
    # torch's own number format; the fused optimiser keeps it beside the parameter.
    return {"step": torch.tensor(float(step), device=parameter.device), **moments}

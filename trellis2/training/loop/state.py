"""The state of a stage: weights, their moving average and the optimiser's moments, in one safetensors file.

Samples and noise are functions of the step (see `data`), so neither generator states nor positions are stored.
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
    """The parameters with requires_grad, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


class EMA:
    """Exponential moving average of a module's trained parameters, in fp32 on their device.

    The decay is min(decay, (1 + step) / (10 + step)): lower at first, so that the initial weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = trained_parameters(module)
        self.values = {name: parameter.detach().clone().float() for name, parameter in self._live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the parameters after step number `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        live = [parameter.detach().float() for parameter in self._live.values()]
        torch._foreach_lerp_(list(self.values.values()), live, 1 - decay)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Set the module's parameters to their averages."""
        for name, parameter in self._live.items():
            parameter.copy_(self.values[name])


def save_state(path: Path, module: nn.Module, ema: EMA, optimizer: AdamW, step: int) -> None:
    """Write the state after `step` steps; an interrupted write leaves the previous file."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained_parameters(module).items():
        tensors[f"model.{name}"] = parameter.detach()
        tensors[f"average.{name}"] = ema.values[name]
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    save_weights(tensors, path, {"step": str(step)})


def saved_step(path: Path) -> int:
    """The number of steps done by the state at `path`; 0 without a file."""
    return int(read_metadata(path)["step"]) if path.exists() else 0


@torch.no_grad()
def load_state(path: Path, module: nn.Module, ema: EMA, optimizer: AdamW) -> int:
    """Restore a state by `save_state` in place and return its step. Raises CheckpointError if its keys are not the
    module's."""
    tensors, step = read_tensors(path), saved_step(path)
    parameters = trained_parameters(module)
    wanted = {f"{part}.{name}" for part in ("model", "average", *MOMENTS) for name in parameters}
    if set(tensors) != wanted:
        odd = sorted(set(tensors) ^ wanted)
        raise CheckpointError(
            f"{path}: expected the state of this stage's networks, got {len(odd)} keys that differ: {odd[:5]}; "
            "train in another folder or restore the recipe"
        )
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"model.{name}"])
        ema.values[name].copy_(tensors[f"average.{name}"])
        optimizer.state[parameter] = _moments(tensors, name, parameter, step)
    return step


def _moments(tensors: Mapping[str, Tensor], name: str, parameter: Tensor, step: int) -> dict[str, Tensor]:
    moments = {moment: tensors[f"{moment}.{name}"].to(parameter.device, copy=True) for moment in MOMENTS}
    # AdamW counts steps in a float tensor; the fused implementation needs it on the parameter's device.
    return {"step": torch.tensor(float(step), device=parameter.device), **moments}

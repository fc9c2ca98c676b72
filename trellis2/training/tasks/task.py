"""What every training task is: networks, a batch in, the terms of a loss out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ..data.stream import Batch, Item
from ..recipe import DataConfig, StageConfig


class Task(nn.Module):
    """What a stage trains. forward(batch) gives the loss's terms, each a scalar; `weights` says what each counts.

    networks: those that are trained, by role; their parameters are the task's.
    """

    weights: ClassVar[Mapping[str, float]]
    inputs: ClassVar[str]  # "voxels" or "latents": which examples it takes

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        """The networks it needs."""
        raise NotImplementedError

    @classmethod
    def trained(cls, stage: StageConfig) -> tuple[str, ...]:
        """Those of them that it trains; the others stay as they are."""
        return cls.roles(stage)

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        """The batch of these examples, made where the examples are."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the batch's loss, by name."""
        raise NotImplementedError

"""The interface of a training task: networks, and a batch in, the terms of a loss out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ..data.batches import Batch, Item
from ..recipe import DataConfig, StageConfig


class Task(nn.Module):
    """The training objective of a stage.

    networks: the trained networks by role; their parameters are the task's.
    weights: default weight of each term of the loss.
    inputs: the dataset's form, "voxels" (Sample) or "latents" (LatentSample).
    materials: whether it needs the voxels' materials.
    """

    weights: ClassVar[Mapping[str, float]]
    inputs: ClassVar[str]
    materials: ClassVar[bool] = True

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)

    @classmethod
    def roles(cls, stage: StageConfig) -> tuple[str, ...]:
        """Roles of the networks that the task needs."""
        raise NotImplementedError

    @classmethod
    def trained(cls, stage: StageConfig) -> tuple[str, ...]:
        """The roles among them that the task trains; the other networks are frozen."""
        return cls.roles(stage)

    @classmethod
    def collate(cls, items: list[Item], data: DataConfig, stage: StageConfig) -> Batch:
        """A batch from B items; runs in the data loader's worker."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by name, each a scalar fp32 tensor: means over the objects of the batch."""
        raise NotImplementedError

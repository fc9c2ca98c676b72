"""Training tasks: each holds networks and computes a loss. TASKS: the value of a stage's "task" -> its class."""

from __future__ import annotations

from collections.abc import Mapping

from .flows import ShapeFlowTask, StructureFlowTask, TextureFlowTask
from .task import Task
from .vaes import ShapeVae, StructureVae, TextureVae

TASKS: Mapping[str, type[Task]] = {
    "structure_vae": StructureVae,
    "shape_vae": ShapeVae,
    "texture_vae": TextureVae,
    "structure_flow": StructureFlowTask,
    "shape_flow": ShapeFlowTask,
    "texture_flow": TextureFlowTask,
}

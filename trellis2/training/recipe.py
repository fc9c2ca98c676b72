"""A recipe: everything that decides what a training run makes, as data. Unknown keys raise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint.config import ConfigError, parse

RECIPES = Path(__file__).with_name("recipes")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where objects come from, and how many pictures each has."""

    source: str = "world"  # the procedural world, or a folder of mesh files
    objects: int = 0  # how many different ones; 0: never the same twice
    views: int = 4
    picture: int | None = None  # pixels a side, a divisor of what the image encoder sees; None: just that many
    structure: int = 64  # voxels a side of the grid that the structure networks decode to
    workers: int = 0  # processes that make objects; 0: the training process itself
    cache: str | None = None  # folder that keeps the voxels that were made; relative to the run's own


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One network, or one pair, trained for `steps` steps. Rates, weights and drop shares are plain numbers."""

    task: str  # a key of tasks.TASKS
    steps: int
    batch: int  # objects a step, over all cards
    learning_rate: float
    resolution: int = 512  # voxels a side
    objects: int | None = None  # how many different ones; None: the recipe's number
    views: int | None = None  # flows: pictures of each; None: the recipe's number
    micro_batch: int | None = None  # objects that a card takes at once; None: its whole share
    warmup: int = 100  # steps of rising rate, before the cosine falls
    final_rate: float = 0.02  # where the cosine ends, a share of learning_rate
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0  # the gradient's largest norm
    ema: float = 0.999  # what is kept of the averaged weights at each step
    weights: Mapping[str, float] = field(default_factory=dict)  # of the loss's terms; one that is absent counts once
    drop_condition: float = 0.1  # flows: share of objects without an image, for guidance
    time_mean: float = 1.0  # flows: of the logit-normal time
    time_std: float = 1.0
    train_image_encoder: bool = False  # flows: together with the flow
    log_every: int = 10  # steps averaged into one row of metrics.csv
    save_every: int = 500

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.log_every, self.save_every) < 1 or (self.micro_batch or 1) < 1:
            raise ConfigError("steps, batch, micro_batch, log_every and save_every: expected at least 1")
        if self.resolution < 16 or self.resolution % 16:
            raise ConfigError(f"resolution: expected a positive multiple of 16, got {self.resolution}")
        if not 0 <= self.drop_condition <= 1 or not 0 <= self.ema < 1:
            raise ConfigError(f"drop_condition, ema: expected [0, 1] and [0, 1), got {self.drop_condition}, {self.ema}")

    @property
    def image_size(self) -> int:
        """Pixels a side of what the image encoder sees, and the name of the flow networks for this resolution."""
        return 512 if self.resolution <= 512 else 1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """networks: role in pipeline.json -> {"name", "args"} of a new one, or {"from": checkpoint} of one to start from,
    with "path" where no role of that checkpoint names it.

    base: the checkpoint to start from: all other networks, and what pipeline.json says; None: all is new, and
    pipeline.json says what the published one does.  pipeline: keys of its "args" that differ.  stages: in the order
    they run.  dtype: of the packed files' numbers; what each network computes in, its own description says.
    """

    seed: int
    data: DataConfig
    networks: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, StageConfig]
    base: str | None = None
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float16"

    def objects(self, stage: StageConfig) -> int:
        """How many different objects a stage learns from; 0: never the same twice."""
        return self.data.objects if stage.objects is None else stage.objects

    def views(self, stage: StageConfig) -> int:
        """How many pictures of each."""
        return self.data.views if stage.views is None else stage.views

    def picture(self, stage: StageConfig) -> int:
        """Pixels a side of the pictures as they are made and kept."""
        return self.data.picture or stage.image_size

    def network(self, role: str) -> Mapping[str, Any]:
        """Where the network of a role comes from."""
        return self.networks[role] if role in self.networks or self.base is None else {"from": self.base}

    def to_json(self) -> dict[str, Any]:
        """The recipe as `load_recipe` reads it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def load_recipe(source: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe from a .json file, or the name of one that comes with the package ("mini", "finetune").

    changes: "key.key=value" each, value in JSON, or plain text where that is not JSON. Raises ConfigError.
    """
    path = Path(source)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{source}.json"
    if not path.exists():
        known = sorted(file.stem for file in RECIPES.glob("*.json"))
        raise ConfigError(f"{source}: expected a .json file, or one of {known}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    for change in changes:
        _change(data, change)
    return parse_recipe(data, str(path))


def parse_recipe(data: Mapping[str, Any], where: str) -> Recipe:
    """A Recipe from parsed JSON. Raises ConfigError naming the first unknown or missing keys."""
    from .tasks.registry import TASKS

    data = dict(data)
    if isinstance(data.get("data"), Mapping):
        data["data"] = parse(DataConfig, data["data"], f"{where}.data")
    stages = data.get("stages")
    if isinstance(stages, Mapping):
        given = {name: {"task": name, **stage} for name, stage in stages.items()}
        data["stages"] = {name: parse(StageConfig, stage, f"{where}.stages.{name}") for name, stage in given.items()}
    recipe = parse(Recipe, data, where)
    for name, stage in recipe.stages.items():
        if stage.task not in TASKS:
            raise ConfigError(f"{where}.stages.{name}.task: expected one of {list(TASKS)}, got {stage.task!r}")
        absent = [role for role in TASKS[stage.task].roles(stage) if role not in recipe.networks]
        picture = recipe.picture(stage)
        if picture < 1 or stage.image_size % picture:
            raise ConfigError(f"{where}.data.picture: expected a divisor of {stage.image_size}, got {picture}")
        if absent and recipe.base is None:
            raise ConfigError(f"{where}.networks: the stage {name} needs {absent}")
    return recipe


def _change(data: dict[str, Any], change: str) -> None:
    """Set what "key.key=value" names; only the last key may be new, and then `parse` has its say."""
    path, equals, text = change.partition("=")
    *parents, last = path.split(".")
    place: Any = data
    for key in parents:
        place = place.get(key) if isinstance(place, dict) else None
    if not equals or not isinstance(place, dict):
        raise ConfigError(f"--set {change}: expected KEY.KEY=VALUE with keys of the recipe")
    try:
        place[last] = json.loads(text)
    except ValueError:
        place[last] = text

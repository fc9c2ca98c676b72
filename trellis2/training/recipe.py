"""A training recipe as data: sources, networks, stages and their hyperparameters. Unknown keys raise ConfigError."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..checkpoint.config import ConfigError, parse

RECIPES = Path(__file__).with_name("recipes")


class TaskType(Protocol):
    """The part of a task's class that a recipe is checked against."""

    def roles(self, stage: StageConfig) -> tuple[str, ...]:
        """Roles of the networks that the stage needs."""
        ...


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The dataset: its source, and the number and size of its samples."""

    source: str = "world"  # the procedural world, or a folder of mesh files
    objects: int = 0  # size of the dataset; 0: unlimited, no object is repeated
    views: int = 4  # rendered pictures of each object
    around: float = 0.0  # the world: share of its pictures taken from any side, the others from the front
    picture: int | None = None  # pixels a side, a divisor of the image encoder's input; None: equal to it
    structure: int = 64  # voxels a side of the structure networks' occupancy grid
    workers: int = 0  # data loader processes; 0: load in the training process
    first: int = 0  # flows: objects to encode before training begins, on those that there are; 0: all. One card only
    cache: str | None = None  # folder of made samples, relative to the run's; None: make them at each use

    def __post_init__(self) -> None:
        if not 0 <= self.around <= 1:
            raise ConfigError(f"data.around: expected a share from 0 to 1, got {self.around}")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage: a task (one network, or an encoder and decoder) trained for `steps` steps."""

    task: str  # a key of tasks.TASKS; by default the name of the stage
    steps: int
    batch: int  # global batch size, in objects, over all cards
    learning_rate: float
    resolution: int = 512  # voxels a side
    objects: int | None = None  # size of the dataset; None: data.objects
    views: int | None = None  # flows: pictures of each object; None: data.views
    micro_batch: int | None = None  # objects in one forward pass of a card; None: batch / cards
    warmup: int = 100  # steps of linear warm-up before the cosine decay
    final_rate: float = 0.02  # end of the cosine decay, as a fraction of learning_rate
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0  # maximum gradient norm
    ema: float = 0.999  # decay of the exponential moving average of the weights
    weights: Mapping[str, float] = field(default_factory=dict)  # of the loss's terms; absent: the task's own
    latent_noise: float = 0.0  # VAEs: most noise on a latent, in standard deviations; then the decoder alone is trained
    crop: int | None = None  # sparse VAEs: voxels a side of a random block of each object; None: whole objects
    missing: float = 1.0  # shape_vae: weight of a child voxel or crossed edge that is missed, beside one too many
    drop_condition: float = 0.1  # flows: probability of a zero condition, for classifier-free guidance
    guess_camera: float = 0.25  # flows that project: probability of the usual camera in place of the picture's own
    time_mean: float = 1.0  # flows: of the logit-normal time distribution
    time_std: float = 1.0
    train_image_encoder: bool = False  # flows: train it together with the flow
    log_every: int = 10  # steps averaged into one row of metrics.csv
    save_every: int = 500  # steps between states written to disk

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.log_every, self.save_every) < 1 or (self.micro_batch or 1) < 1:
            raise ConfigError("steps, batch, micro_batch, log_every and save_every: expected at least 1")
        if self.resolution < 16 or self.resolution % 16:
            raise ConfigError(f"resolution: expected a positive multiple of 16, got {self.resolution}")
        if self.crop is not None and (self.crop < 16 or self.crop % 16):
            raise ConfigError(f"crop: expected a positive multiple of 16, got {self.crop}")
        if self.latent_noise < 0 or self.missing <= 0:
            raise ConfigError(f"latent_noise, missing: expected >= 0 and > 0, got {self.latent_noise}, {self.missing}")
        shares = {name: getattr(self, name) for name in ("drop_condition", "guess_camera")}
        if not all(0 <= share <= 1 for share in shares.values()) or not 0 <= self.ema < 1:
            raise ConfigError(
                f"drop_condition, guess_camera, ema: expected [0, 1], got {shares}, and [0, 1), {self.ema}"
            )

    @property
    def image_size(self) -> int:
        """Pixels a side of the image encoder's input; also the suffix of the flow networks' roles."""
        return 512 if self.resolution <= 512 else 1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe.

    networks: role in pipeline.json -> {"name", "args"} of a new network, or {"from": checkpoint} of a pretrained one,
    with "path" if pipeline.json of that checkpoint has no such role.
    base: the checkpoint to fine-tune, which supplies the other networks and pipeline.json; None: train from scratch,
    with the published pipeline.json.
    pipeline: overrides of pipeline.json's "args".
    stages: in the order in which they run.
    dtype: of the weights in the packed checkpoint; the compute dtype is in each network's own config.
    """

    seed: int
    data: DataConfig
    networks: Mapping[str, Mapping[str, Any]]
    stages: Mapping[str, StageConfig]
    base: str | None = None
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float16"

    def objects(self, stage: StageConfig) -> int:
        """Size of a stage's dataset; 0: unlimited."""
        return self.data.objects if stage.objects is None else stage.objects

    def views(self, stage: StageConfig) -> int:
        """Pictures of each object in a stage's dataset."""
        return self.data.views if stage.views is None else stage.views

    def picture(self, stage: StageConfig) -> int:
        """Pixels a side of the pictures as rendered and cached."""
        return self.data.picture or stage.image_size

    def network(self, role: str) -> Mapping[str, Any]:
        """The entry of `networks` for a role, by default the base checkpoint's network."""
        return self.networks[role] if role in self.networks or self.base is None else {"from": self.base}

    def to_json(self) -> dict[str, Any]:
        """The recipe as JSON values; `parse_recipe` reads them back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def load_recipe(source: str | Path, tasks: Mapping[str, TaskType], changes: Sequence[str] = ()) -> Recipe:
    """A recipe from a .json file, or by the name of one in the package ("mini", "finetune").

    tasks: see `parse_recipe`.  changes: "key.key=value" each, value in JSON, or plain text if that is not valid JSON.
    Raises ConfigError for a file that is missing or not JSON, for a change without its key, and as `parse_recipe`.
    """
    path = Path(source)
    if not path.suffix and not path.exists():
        path = RECIPES / f"{source}.json"
    if not path.exists():
        known = sorted(file.stem for file in RECIPES.glob("*.json"))
        raise ConfigError(f"{source}: expected a .json file, or one of {known}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected an object, got {type(data).__name__}")
    for change in changes:
        _apply_change(data, change)
    return parse_recipe(data, tasks, str(path))


def parse_recipe(data: Mapping[str, Any], tasks: Mapping[str, TaskType], where: str) -> Recipe:
    """A Recipe from parsed JSON.

    tasks: the tasks that a stage may name, `tasks.TASKS`.  where: prefix of error messages.
    Raises ConfigError for unknown or missing keys, an unknown task, a picture size that does not divide the image
    encoder's input, and a stage whose networks the recipe does not define.
    """
    data = dict(data)
    if "data" in data:
        data["data"] = parse(DataConfig, data["data"], f"{where}.data")
    if "stages" in data:
        given = data["stages"] if isinstance(data["stages"], Mapping) else {"": data["stages"]}
        named = {
            name: {"task": name, **stage} if isinstance(stage, Mapping) else stage for name, stage in given.items()
        }
        data["stages"] = {name: parse(StageConfig, stage, f"{where}.stages.{name}") for name, stage in named.items()}
    recipe = parse(Recipe, data, where)
    for name, stage in recipe.stages.items():
        if stage.task not in tasks:
            raise ConfigError(f"{where}.stages.{name}.task: expected one of {list(tasks)}, got {stage.task!r}")
        absent = [role for role in tasks[stage.task].roles(stage) if role not in recipe.networks]
        picture = recipe.picture(stage)
        if picture < 1 or stage.image_size % picture:
            raise ConfigError(f"{where}.data.picture: expected a divisor of {stage.image_size}, got {picture}")
        if absent and recipe.base is None:
            raise ConfigError(f"{where}.networks: the stage {name} needs {absent}")
    return recipe


def _apply_change(data: dict[str, Any], change: str) -> None:
    """Set the value at "key.key=value". Only the last key may be new; `parse` then rejects it unless it is known."""
    path, equals, text = change.partition("=")
    *parents, last = path.split(".")
    parent: Any = data
    for key in parents:
        parent = parent.get(key) if isinstance(parent, dict) else None
    if not equals or not isinstance(parent, dict):
        raise ConfigError(f"--set {change}: expected KEY.KEY=VALUE with keys of the recipe")
    try:
        parent[last] = json.loads(text)
    except ValueError:
        parent[last] = text

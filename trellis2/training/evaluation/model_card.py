"""The model card of a trained checkpoint: architecture, training and evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from ....o_voxel.core.atomic_io import write_files
from ...checkpoint.layouts import IMAGE_ENCODER, Checkpoint
from ...checkpoint.weights import read_tensors
from ..recipe import Recipe, load_recipe
from ..tasks import TASKS
from .evaluate import COLUMNS, Row, by_camera, means

CARD = "README.md"
TEXT = Template("""\
# $title: a small TRELLIS.2

One picture in, a 3D mesh with PBR materials out: $parameters parameters, $megabytes MB. The architecture, the files and
the nodes are those of Microsoft's TRELLIS.2, with narrow layers, trained by us from nothing on shapes that we generate.
It is for trying things out, for tests, and for machines without a large GPU. It is **not** Microsoft's model and not
made from it. For pictures of any kind take `microsoft/TRELLIS.2-4B`; the same nodes and commands load it.

$networks

## How it was made

With this repository's own code, seed $seed, the recipe `$recipe`:

```sh
trellis2 train $recipe -o $run          # every stage, then $run/checkpoint
trellis2 pack $run -o $folder
```

$stages

Different objects: 0 means unlimited, none is repeated. Weights are stored as $dtype. `docs/training.md` describes the
data and the loss of each stage.

## What it has seen

Nothing but a procedural world: objects composed by this repository's code, with PBR materials, drawn by its renderer
from random sides, with random lenses and lights, on a transparent background. No picture, scan or model of anybody
else.

- Families to learn from: $families.
- Kept apart, never seen: $held_out. And, of the families that it has seen, all instances from seed 2^30 on.

## How well it does

`trellis2 evaluate`: one picture of each object, the checkpoint's own sampling settings. Instances are new objects of
families that it has seen, families are kinds of things that it has not. What could not be made counts as 0, its colour
not at all.

$figures

## Limits

- One whole object of the kinds above, on a transparent background. Anything else comes out as some shape of its world.
- It is for `$kind`: the networks of other resolutions are not there.
- What the picture does not show is made up.

## Licence

MIT, as the code: the weights, the objects and the pictures are all made by this repository.
""")


def write_card(source: str, checkpoint: Path, rows: Mapping[str, Sequence[Row]]) -> Path:
    """Write `checkpoint`/README.md and return it.

    source: of the recipe, as in `load_recipe`.  rows: of `evaluate`, by split: "instances" and optionally "families".
    Raises MissingFileError for a network without files, ConfigError for an invalid recipe.
    """
    path = checkpoint / CARD
    return write_files({path: card(source, checkpoint, rows).encode()})


def card(source: str, checkpoint: Path, rows: Mapping[str, Sequence[Row]]) -> str:
    """The text of the card; arguments and errors as of `write_card`."""
    from ..world import HELD_OUT_FAMILIES, TRAIN_FAMILIES

    recipe, opened = load_recipe(source, TASKS), Checkpoint.open(str(checkpoint))
    files = {role: opened.layout.files(role)[-1] for role in (*opened.config.models, IMAGE_ENCODER)}
    sizes = {role: sum(tensor.numel() for tensor in read_tensors(file).values()) for role, file in files.items()}
    total = sum(sizes.values())
    return TEXT.substitute(
        title=checkpoint.resolve().name,
        folder=checkpoint.as_posix(),
        recipe=source,
        run=f"runs/{checkpoint.resolve().name}",
        seed=recipe.seed,
        dtype=recipe.dtype,
        kind=opened.config.default_pipeline_type,
        parameters=f"{total / 1e6:.1f} million",
        megabytes=f"{sum(file.stat().st_size for file in files.values()) / 1e6:.1f}",
        networks=_table(("network", "parameters"), [(role, f"{count:,}") for role, count in sizes.items()]),
        stages=_table(("stage", "voxels a side", "steps", "objects a step", "different objects"), _stages(recipe)),
        families=", ".join(TRAIN_FAMILIES).replace("_", " "),
        held_out=", ".join(HELD_OUT_FAMILIES).replace("_", " "),
        figures=_figures(rows),
    )


def _stages(recipe: Recipe) -> list[tuple[str, ...]]:
    """A row of the table of stages for each stage."""
    return [
        (name, str(stage.resolution), f"{stage.steps:,}", str(stage.batch), f"{recipe.objects(stage):,}")
        for name, stage in recipe.stages.items()
    ]


def _figures(rows: Mapping[str, Sequence[Row]]) -> str:
    """The table of mean metrics: a row for each of COLUMNS, a column for each split and camera."""
    parts = {split: by_camera(own) for split, own in rows.items()}
    rows = {
        f"held-out {split}" + (f", camera {camera}" if len(own) > 1 else ""): some
        for split, own in parts.items()
        for camera, some in own.items()
    }
    found = {column: means(own) for column, own in rows.items()}
    lines = [
        (title, f"{'≥' if more else '≤'} {goal:g}", *(_figure(own[key]) for own in found.values()))
        for key, (title, more, goal) in COLUMNS.items()
    ]
    lines.append(("objects", "", *(str(len(own)) for own in rows.values())))
    lines.append(
        ("of which could not be made", "", *(str(sum(bool(r["problem"]) for r in own)) for own in rows.values()))
    )
    return _table(("mean of", "goal", *rows), lines)


def _figure(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.3g}"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    ruler = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *lines))

"""The families of objects: functions of a Dice that return Parts. Units are free, z is up, the front is -y."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..dice import Dice
from ..parts import Parts
from . import furniture, vessels

Family = Callable[[Dice], Parts]


def _by_name(*families: Family) -> dict[str, Family]:
    return {family.__name__: family for family in families}


TRAIN: Mapping[str, Family] = _by_name(
    furniture.chair,
    furniture.table,
    furniture.shelf,
    furniture.bed,
    furniture.sofa,
    furniture.cabinet,
    vessels.mug,
    vessels.bottle,
    vessels.vase,
    vessels.bowl,
    vessels.teapot,
    vessels.bucket,
)
# Never trained on: how the model fares with kinds of things that it has not seen.
HELD_OUT: Mapping[str, Family] = _by_name(furniture.bench, vessels.goblet, vessels.basket, vessels.barrel)

FAMILIES: Mapping[str, Family] = {**TRAIN, **HELD_OUT}

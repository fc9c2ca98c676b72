"""The families of objects: functions from a Dice to Parts. Any unit of length, z up, front at -y."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..dice import Dice
from ..shapes import Parts
from . import buildings, craft, fancy, furniture, home, music, plants, road, tools, toys, vessels

Family = Callable[[Dice], Parts]


def _by_name(*families: Family) -> dict[str, Family]:
    return {family.__name__: family for family in families}


TRAIN: Mapping[str, Family] = _by_name(
    *(furniture.bed, furniture.cabinet, furniture.chair, furniture.shelf, furniture.sofa, furniture.table),
    *(vessels.bottle, vessels.bowl, vessels.bucket, vessels.mug, vessels.teapot, vessels.vase),
    *(tools.hammer, tools.saw, tools.screwdriver, tools.shovel, tools.sword),
    *(craft.boat, road.car, craft.plane, road.train, road.truck),
    *(plants.cactus, plants.flower, plants.mushroom, plants.potted_plant, plants.tree),
    *(toys.ball, toys.blocks, toys.die, toys.ring_stack, toys.robot, toys.snowman, toys.teddy),
    *(buildings.castle, buildings.house, buildings.tent, buildings.windmill),
    *(fancy.cake, home.candle, home.clock, fancy.hat, fancy.ice_cream, home.lamp),
    *(music.drum, music.guitar, music.piano),
)
# Never trained on: they measure generalisation to unseen kinds of objects.
HELD_OUT: Mapping[str, Family] = _by_name(
    *(furniture.bench, vessels.basket, vessels.barrel, vessels.goblet, tools.key, tools.paintbrush, tools.wrench),
    *(craft.balloon, craft.rocket, toys.duck, buildings.lighthouse, home.books, fancy.chess_piece),
    *(home.umbrella, music.trumpet),
)

FAMILIES: Mapping[str, Family] = {**TRAIN, **HELD_OUT}

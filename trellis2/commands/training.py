"""Training: the world it draws on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> None:
    """world"""
    world = commands.add_parser("world", help="a picture of objects that training draws on")
    world.set_defaults(command=_world)
    world.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    world.add_argument("--family", help="only this one (default: all)")
    world.add_argument("--seed", type=int, default=0, help="of the first object (default 0)")
    world.add_argument("--count", type=int, default=4, help="objects of each family (default 4)")
    world.add_argument("--columns", type=int, default=12, help="objects in a row (default 12)")
    world.add_argument("--size", type=int, default=128, help="pixels a side of each object (default 128)")


def _world(arguments: argparse.Namespace) -> int:
    from ..training.world import FAMILIES
    from ..training.world.sheet import contact_sheet

    families = list(FAMILIES) if arguments.family is None else [arguments.family]
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    contact_sheet(families, seeds, arguments.size, arguments.columns).save(arguments.output)
    print(f"{arguments.output}: {len(families) * len(seeds)} objects")
    return 0

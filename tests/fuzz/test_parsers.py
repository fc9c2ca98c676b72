"""A few hundred mutations of each parser's corpus: every one is read or refused, in seconds, in bounded memory.

The same inputs at each run. `run.py` looks for new ones by the million.
"""

import random
from contextlib import suppress

import pytest

from .limits import REFUSALS, limited
from .mutate import mutated
from .targets import TARGETS

INPUTS = 100
# Of targets whose inputs take long.
FEWER = {"network": 8, "obj": 50}


# Networks are built; numba's loops are loaded.
SLOW = ("network", "meshopt", "obj")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW), id=name) for name in TARGETS]
)
def test_mutations_are_read_or_refused(name, tmp_path):
    target, rng = TARGETS[name], random.Random(name)
    seeds = target.seeds()
    for content in seeds[: FEWER.get(name)]:  # imports and compilation, which are no allocation of a parser
        with suppress(*REFUSALS):
            target.run(content, tmp_path)
    read = 0
    for number in range(len(seeds) + FEWER.get(name, INPUTS)):
        content = seeds[number] if number < len(seeds) else mutated(rng.choice(seeds), rng, seeds, target.envelope)
        try:
            with limited(len(content)):
                target.run(content, tmp_path)
            read += 1
        except REFUSALS as error:
            assert str(error)
    assert read

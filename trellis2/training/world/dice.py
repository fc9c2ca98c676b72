"""The seeded random generator of the world, with the distributions that families use."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """A PCG64 generator seeded by `key`: strings and non-negative integers.

    Its stream is the same on all machines. Equal keys draw equal numbers, and each draw advances the stream.
    """

    def __init__(self, *key: str | int) -> None:
        numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))

    def between(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * float(self._generator.random())

    def count(self, low: int, high: int) -> int:
        """Uniform integer from low to high, inclusive."""
        return low + int(self._generator.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """True with probability `share`."""
        return float(self._generator.random()) < share

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, with equal probability."""
        return options[self.count(0, len(options) - 1)]

    def numbers(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Uniform in [low, high): an array of this shape, fp64."""
        return low + (high - low) * self._generator.random(shape)

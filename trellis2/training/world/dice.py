"""The chances that make each object another: one seeded generator, with the draws that families need."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Draws from numpy's PCG64, whose stream is the same on every machine."""

    def __init__(self, *key: str | int) -> None:
        numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(numbers)))

    def between(self, low: float, high: float) -> float:
        """Evenly from low to high."""
        return low + (high - low) * float(self._generator.random())

    def count(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._generator.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        """True in this share of the draws."""
        return float(self._generator.random()) < share

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all alike."""
        return options[self.count(0, len(options) - 1)]

    def numbers(self, low: float, high: float, *shape: int) -> np.ndarray:
        """Many draws of `between`, an array of this shape."""
        return low + (high - low) * self._generator.random(shape)

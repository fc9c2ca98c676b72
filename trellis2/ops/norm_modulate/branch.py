"""What comes before a norm in a residual network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Branch:
    """What a residual network adds to its stream: gate[item] * values + constant[item].

    values: [T, C] in the stream's dtype.  gate: [B, C]; None: 1.  constant: [B, C]; None: 0.
    """

    values: Tensor
    gate: Tensor | None = None
    constant: Tensor | None = None

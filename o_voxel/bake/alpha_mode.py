"""Whether a baked surface is opaque, cut out or translucent."""

from __future__ import annotations

from torch import Tensor

from ..material import AlphaMode

# Decoded alpha is a little below 1 nearly everywhere; what is meant to be seen through is well below.
OPAQUE_FROM = 230
CLEAR_TO = 25
# The least share of the texels that have to be seen through, for a mode that costs renderers more.
SEEN_THROUGH = 0.01
# The most of those that may be neither opaque nor clear, for a surface that is cut out: its rims.
IN_BETWEEN = 0.25


def alpha_mode(alpha: Tensor) -> AlphaMode:
    """The mode for the `alpha` [T] uint8 of the texels of a surface.

    "OPAQUE" where at most 1 % of them are below 0.9; otherwise "MASK" where at most a quarter of these are above 0.1,
    and else "BLEND".
    """
    below = int((alpha < OPAQUE_FROM).sum())
    if below <= SEEN_THROUGH * len(alpha):
        return "OPAQUE"
    between = int(((alpha < OPAQUE_FROM) & (alpha > CLEAR_TO)).sum())
    return "MASK" if between <= IN_BETWEEN * below else "BLEND"

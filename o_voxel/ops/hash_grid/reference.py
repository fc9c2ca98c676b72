"""Voxel index as sorted int64 keys with binary search: no collisions, any device."""

from __future__ import annotations

import torch
from torch import Tensor

# 16 bits each for the batch index and three axes fill an int64. The limit keeps -1, all bits set, free for rows outside
# the range; keys of batch indices from 2**15 up are negative.
AXIS_BITS = 16
AXIS_LIMIT = 65_000


def pack_keys(coords: Tensor) -> Tensor:
    """Returns keys [...] int64 of coordinates [..., 3 or 4] int, -1 where one is outside [0, 65000).

    They are ordered as the coordinates are, except that batch indices from 32768 up come first.
    """
    wide = coords.to(torch.int64)
    key = torch.zeros(wide.shape[:-1], dtype=torch.int64, device=wide.device)
    for column in wide.unbind(-1):
        key = (key << AXIS_BITS) | column
    inside = (wide >= 0).all(-1) & (wide < AXIS_LIMIT).all(-1)
    return torch.where(inside, key, -1)


def sort_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (sorted keys, their rows) of keys [N] int64, both [N] int64, equal keys in row order."""
    return torch.sort(keys, stable=True)


def search_keys(keys: Tensor, rows: Tensor, query: Tensor) -> Tensor:
    """Returns rows [...] int64 of the `query` coordinates [..., D] int, -1 if absent.

    keys, rows: [N] int64 each, as `sort_keys` returns them; D as of the coordinates that were packed.
    """
    wanted = pack_keys(query)
    if len(keys) == 0:
        return torch.full_like(wanted, -1)
    slot = torch.searchsorted(keys, wanted).clamp_max_(len(keys) - 1)
    found = (keys[slot] == wanted) & (wanted != -1)
    return torch.where(found, rows[slot], -1)

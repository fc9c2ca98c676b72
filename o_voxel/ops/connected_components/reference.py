"""Connected components in plain torch: the forest that mesh cleaning grows, without its parity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mesh_connectivity import components


def connected_torch(count: int, first: Tensor, second: Tensor, backend: str = "reference") -> Tensor:
    """As `connected`, checked there; backend: "reference", or "numba" on the CPU."""
    return components(count, first, second, torch.zeros_like(first, dtype=torch.bool), backend=backend)[0]

"""Connected components in plain torch: the spanning forest of `mesh_connectivity`, without its parity."""

from __future__ import annotations

import torch
from torch import Tensor

from ..mesh_connectivity import components


def connected_torch(count: int, first: Tensor, second: Tensor, backend: str = "reference") -> Tensor:
    """As `connected`, checked there: labels [count] int64. backend: "reference", or "numba" on the CPU."""
    return components(count, first, second, torch.zeros_like(first, dtype=torch.bool), backend=backend)[0]

"""The rotation of Comfy-Org's "convrot" files: groups of channels mixed by a regular Hadamard matrix.

Rotated on both sides a product stays what it is, (x H) (w H)^T = x w^T, and outliers of single channels are spread
over their group, which 8 bits take better (ConvRot, arXiv 2512.03673).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

# One 1 has the other sign in every row: no row is constant, so a mean is spread like anything else.
SEED = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


@cache
def hadamard(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[size, size], exact in any float dtype, orthogonal and symmetric: the Kronecker power of SEED over its norm.

    Raises ValueError unless size is a power of 4.
    """
    if size < 4 or size & (size - 1) or size.bit_length() % 2 == 0:
        raise ValueError(f"rotation: expected a group of 4, 16, 64, 256 … channels, got {size}")
    seed = torch.tensor(SEED, dtype=torch.float32, device=device) / 2
    matrix = seed
    while len(matrix) < size:
        matrix = torch.kron(matrix, seed)
    return matrix.to(dtype)


def rotate(x: Tensor, group: int) -> Tensor:
    """Every `group` channels of x [..., K] mixed; its own inverse. In x's dtype."""
    if x.shape[-1] % group:
        raise ValueError(f"rotation: expected a multiple of {group} channels, got {x.shape[-1]}")
    mixed = x.unflatten(-1, (-1, group)) @ hadamard(group, x.device, x.dtype)
    return mixed.flatten(-2)

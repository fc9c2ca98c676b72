"""The CPU's way: the library fast-simplification, whose error limits need lengths in units of about an edge."""

from __future__ import annotations

import torch
from fast_simplification import simplify
from torch import Tensor


def collapse_library(position: Tensor, faces: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """Positions [W, 3] float32 and faces [G, 3] int32 of about `target` faces; open edges stay as they are.

    It does not look at how the surface is connected: now and then it makes an edge of four faces.
    """
    points, triangles = simplify(
        position.double().numpy(), faces.numpy(), target_count=min(target, len(faces)), preserve_border=True
    )
    return torch.from_numpy(points).float(), torch.from_numpy(triangles).to(torch.int32)

"""Ops of ours under torch.autocast: they take the numbers that torch's own matrix products would."""

from __future__ import annotations

import torch
from torch import Tensor


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of the autocast that is in force on the first one's device; unchanged without one.

    What is no tensor is left to the checks that follow.
    """
    if not all(tensor is None or isinstance(tensor, Tensor) for tensor in tensors):
        return tensors
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(None if tensor is None else tensor.to(dtype) for tensor in tensors)

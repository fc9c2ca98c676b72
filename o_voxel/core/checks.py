"""Argument checks for public functions: type, then shape, then dtype; messages state expected and got."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_tensor(
    value: object,
    name: str,
    shape: Sequence[int | None],
    dtype: torch.dtype | Sequence[torch.dtype] | None = None,
) -> Tensor:
    """Returns `value` if it is a tensor of this `shape` (None: any size) and one of these dtypes (None: any).

    Raises TypeError (not a tensor) or ValueError (shape or dtype), naming the argument.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    fits = value.ndim == len(shape) and all(n is None or n == m for n, m in zip(shape, value.shape, strict=True))
    if not fits:
        wanted = ", ".join("*" if n is None else str(n) for n in shape)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(value.shape)}")
    allowed = (dtype,) if isinstance(dtype, torch.dtype) else dtype
    if allowed is not None and value.dtype not in allowed:
        wanted = " or ".join(str(d).removeprefix("torch.") for d in allowed)
        raise ValueError(f"{name}: expected {wanted}, got {str(value.dtype).removeprefix('torch.')}")
    return value

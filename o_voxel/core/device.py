"""What moves between devices as a whole, and tensors that outlive the call that makes them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, Protocol, TypeVar, runtime_checkable

import torch

P = ParamSpec("P")
T = TypeVar("T")


@runtime_checkable
class Movable(Protocol):
    """A tensor, or an immutable value of tensors that moves like one: `to` returns another, or itself if it is there.

    A module is none: it moves in place, and has neither `device` nor `nbytes`.
    """

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""

    @property
    def nbytes(self) -> int:
        """Bytes that `to` copies."""

    def to(self, device: torch.device | str) -> Movable:
        """The same value on `device`."""


def normal_tensors(build: Callable[P, T]) -> Callable[P, T]:
    """Decorator for what fills a cache: the tensors that `build` makes are normal ones, also in inference mode.

    A host such as ComfyUI calls us under torch.inference_mode. What is made there is an inference tensor for good, and
    autograd refuses to save one ("Inference tensors cannot be saved for backward"): a cached one would break a training
    later in the same process.
    """

    @wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return build(*args, **kwargs)
        # Leaving inference mode turns gradients on.
        with torch.inference_mode(False), torch.no_grad():
            return build(*args, **kwargs)

    return built

"""Compiling ahead: the kernels of this machine, numba's and Triton's, into their caches on the disk."""

from __future__ import annotations

from .run import Outcome, PrecompileError, precompile

__all__ = ["Outcome", "PrecompileError", "precompile"]

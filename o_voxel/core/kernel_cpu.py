"""numba.njit with a disk cache that is keyed by package name and source text."""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Callable
from functools import cache
from types import ModuleType

from numba import njit
from numba.core import event

from .compile_notice import NOTICE


class _Listener(event.Listener):
    """Passes numba's compile events on. They come from compilations only, not from kernels read from the cache."""

    def on_start(self, event: event.Event) -> None:
        NOTICE.begin()

    def on_end(self, event: event.Event) -> None:
        NOTICE.end()


@cache
def _announce_compilation() -> None:
    event.register("numba:compile", _Listener())


def cached_njit(function: Callable, *uses: ModuleType, **options: object) -> Callable:
    """Compiles `function` without the GIL, cached on disk by its module's name and the source of the modules it uses.

    numba keys a cache file by the function's file, name and line. Under another package name, loading that file raises
    ModuleNotFoundError (ComfyUI loads a pack by path, pip by name), and numba misses changes in other files. Both
    therefore go into the function's name. options: further options of `numba.njit`.
    """
    _announce_compilation()
    module = sys.modules[function.__module__]
    text = module.__name__ + "".join(inspect.getsource(m) for m in (module, *uses))
    function.__qualname__ = f"{function.__qualname__}_{zlib.crc32(text.encode()):08x}"
    return njit(cache=True, nogil=True, **options)(function)

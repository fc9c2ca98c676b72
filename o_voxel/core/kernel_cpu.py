"""numba with a cache on disk that survives how a pack is loaded."""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Callable
from types import ModuleType

from numba import njit


def cached_njit(function: Callable, *uses: ModuleType, **options: object) -> Callable:
    """`function` compiled without the GIL and cached on disk, per name of its module and text of the modules it uses.

    numba finds a cache file by the function's file, name and line. Loaded under another package name, the file raises
    ModuleNotFoundError (ComfyUI loads a pack by its path, pip by its name), and it is blind to changes in another
    file. So both go into the function's name. options: further ones of `numba.njit`.
    """
    module = sys.modules[function.__module__]
    text = module.__name__ + "".join(inspect.getsource(m) for m in (module, *uses))
    function.__qualname__ = f"{function.__qualname__}_{zlib.crc32(text.encode()):08x}"
    return njit(cache=True, nogil=True, **options)(function)

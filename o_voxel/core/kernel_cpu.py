"""numba.njit with a disk cache that is keyed by package name and source text.

What numba has for itself is used to compile less and to say so. Where a release lacks it, kernels compile without.
"""

from __future__ import annotations

import inspect
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import ModuleType

from .compiling.gc_pause import PAUSE, paused
from .compiling.notice import NOTICE

with paused():
    from numba import njit, types


def _load_types() -> None:
    """Has numba load what it knows of types and functions, as it else does when the first kernel is called.

    At that it imports scipy.linalg, with numpy.f2py, a third of the whole, only to see that it is there, for products
    of matrices in kernels. Here it does not look; kernels that have such products still import it.
    """
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target
    from numba.np import linalg

    if "numba.np.arraymath" not in sys.modules and hasattr(linalg, "ensure_blas"):
        look, linalg.ensure_blas = linalg.ensure_blas, lambda: None
        try:
            from numba.np import arraymath  # looks while it is imported

            arraymath.ensure_blas = look
        finally:
            linalg.ensure_blas = look
    with global_compiler_lock:
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()


with paused(), suppress(AttributeError, ImportError):
    _load_types()


@cache
def _announce_compilation() -> None:
    """Passes numba's compile events on. They come from compilations only, not from kernels read from the cache."""
    try:
        from numba.core.event import Listener, register
    except ImportError:
        return

    class Announcer(Listener):
        def on_start(self, _: object) -> None:
            PAUSE.begin()
            NOTICE.begin()

        def on_end(self, _: object) -> None:
            NOTICE.end()
            PAUSE.end()

    register("numba:compile", Announcer())


def cached_njit(function: Callable, *uses: ModuleType, inner: bool | None = None, **options: object) -> Callable:
    """Compiles `function` without the GIL, cached on disk by its module's name and the source of the modules it uses.

    numba keys a cache file by the function's file, name and line. Under another package name, loading that file raises
    ModuleNotFoundError (ComfyUI loads a pack by path, pip by name), and numba misses changes in other files. Both
    therefore go into the function's name. options: further options of `numba.njit`.
    inner: other kernels call it, Python does not; None: if its name begins with an underscore. What Python would call
    it by takes about as long to compile as itself.
    """
    _announce_compilation()
    module = sys.modules[function.__module__]
    text = module.__name__ + "".join(_source(m) for m in (module, *uses))
    function.__qualname__ = f"{function.__qualname__}_{zlib.crc32(text.encode()):08x}"
    inner = function.__name__.startswith("_") if inner is None else inner
    options |= {"cache": True, "nogil": True, "no_cfunc_wrapper": True}
    kernel = njit(no_cpython_wrapper=inner, **options)(function)
    if inner and not _closed_to_python(kernel):
        kernel = njit(**options)(function)
    return _called_with_int64(kernel)


@cache
def _source(module: ModuleType) -> str:
    return inspect.getsource(module)


def _called_with_int64(kernel: Callable) -> Callable:
    """Has other kernels call this one with int64 where they have a constant or a narrower signed integer.

    numba would compile it again for each: push(heap, 0) apart from push(heap, i), and both again for an int32. The
    values are the same: numba computes with int64 as soon as two integers meet.
    """
    template = getattr(kernel, "get_call_template", None)
    if template is None:
        return kernel

    def get_call_template(args: tuple, kws: dict) -> tuple:
        return template(tuple(map(_wide, args)), {name: _wide(kind) for name, kind in kws.items()})

    kernel.get_call_template = get_call_template
    return kernel


def _closed_to_python(kernel: Callable) -> bool:
    """Has a kernel without an entry for Python raise TypeError there, which would else end the process. False where
    this release has other methods for it."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise TypeError(f"{kernel.py_func.__name__}: other kernels may call it, Python may not")

    instead = {"_compile_for_args": refuse, "_insert": lambda *overload: None}
    if not all(hasattr(kernel, name) for name in instead):
        return False
    vars(kernel).update(instead)
    return True


def _wide(kind: types.Type) -> types.Type:
    kind = types.unliteral(kind)
    return types.int64 if isinstance(kind, types.Integer) and kind.signed else kind


def cache_path() -> str:
    """Returns the folder of this module's compiled files; those of the others are beside their sources too, or in
    folders beside this one. Raises RuntimeError, numba's, if there is no place for them."""
    return njit(cache=True)(_probed).stats.cache_path


def _probed() -> None:
    """Never compiled."""

"""What the log says of kernels that are compiled for the first time."""

import logging
import sys
import time
from types import SimpleNamespace

import pytest
from comfyui_trellis2.o_voxel.core.compiling import notice as compile_notice
from comfyui_trellis2.o_voxel.core.compiling.notice import MESSAGE, CompileNotice


@pytest.fixture(autouse=True)
def quick(monkeypatch, caplog):
    monkeypatch.setattr(compile_notice, "SILENT_SECONDS", 0.2)
    caplog.set_level(logging.INFO, logger=compile_notice.__name__)


def test_short_compilations_say_nothing(caplog):
    notice = CompileNotice()
    notice.begin()
    notice.end()
    time.sleep(0.5)
    assert caplog.text == ""


@pytest.mark.slow
def test_a_long_one_says_so_once_and_then_what_it_took(caplog):
    notice = CompileNotice()
    for _ in range(3):  # nested, as a kernel that calls another
        notice.begin()
    time.sleep(1.0)
    assert caplog.messages == [MESSAGE]
    for _ in range(3):
        notice.end()
    assert len(caplog.messages) == 2
    assert "kernels compiled after" in caplog.messages[1]


@pytest.mark.slow
def test_many_short_ones_in_a_row_count_as_a_long_one(caplog, monkeypatch):
    monkeypatch.setattr(compile_notice, "SILENT_SECONDS", 1.0)
    notice, ends = CompileNotice(), time.monotonic() + 3
    while time.monotonic() < ends and not caplog.messages:
        notice.begin()
        time.sleep(0.05)
        notice.end()
    assert caplog.messages[0] == MESSAGE


def test_kernels_that_come_one_by_one_are_announced_once(caplog):
    notice = CompileNotice()
    for _ in range(3):
        notice.compiled()
    assert caplog.messages == [MESSAGE]


def test_triton_tells_of_our_kernels_that_it_compiled(monkeypatch):
    triton = pytest.importorskip("triton")
    from comfyui_trellis2.o_voxel.core import kernel

    if not hasattr(getattr(getattr(triton, "knobs", None), "compilation", None), "listener"):
        pytest.skip("this Triton has no listener")
    heard, calls = [], []
    monkeypatch.setattr(triton.knobs.compilation, "listener", lambda **details: heard.append(details))
    monkeypatch.setattr(kernel.NOTICE, "compiled", lambda: calls.append(1))
    kernel.announce_compilation.__wrapped__()
    ours = SimpleNamespace(fn=SimpleNamespace(__module__="comfyui_trellis2.o_voxel.ops.raster.kernel"))
    theirs = SimpleNamespace(fn=SimpleNamespace(__module__="another.kernel"))
    for src, cache_hit in ((ours, True), (theirs, False), (SimpleNamespace(), False), (ours, False)):
        triton.knobs.compilation.listener(src=src, cache_hit=cache_hit, times=None, metadata={}, metadata_group={})
    assert len(heard) == 4
    assert calls == [1]


@pytest.mark.slow
def test_numba_tells_when_it_compiles_and_not_when_it_runs(monkeypatch, tmp_path):
    pytest.importorskip("numba")
    from comfyui_trellis2.o_voxel.core import kernel_cpu

    calls = []
    monkeypatch.setattr(kernel_cpu.NOTICE, "begin", lambda: calls.append("begin"))
    monkeypatch.setattr(kernel_cpu.NOTICE, "end", lambda: calls.append("end"))
    (tmp_path / "kernel_of_a_test.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import kernel_of_a_test

    compiled = kernel_cpu.cached_njit(kernel_of_a_test.double)
    assert calls == []
    assert compiled(3) == 6
    assert calls[0] == "begin"
    assert calls.count("begin") == calls.count("end")
    before = list(calls)
    assert compiled(4) == 8
    again = kernel_cpu.njit(cache=True, nogil=True)(kernel_of_a_test.double)
    assert again(4) == 8  # from the cache on the disk
    assert calls == before
    del sys.modules["kernel_of_a_test"]

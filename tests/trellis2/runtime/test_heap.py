"""The heap goes back to the system: what is freed below a small object in use does not stay resident."""

from pathlib import Path

import pytest
from comfyui_trellis2.nodes.host import out_of_memory
from comfyui_trellis2.trellis2.runtime import memory

PIECES, BYTES = 1600, 2**16  # 100 MiB, each below the size from which glibc maps an array of its own


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


@pytest.mark.skipif(memory._malloc_trim() is None, reason="not glibc")
def test_what_is_free_below_an_object_in_use_goes_back():
    pieces = [bytearray(BYTES) for _ in range(PIECES)]
    above = bytearray(BYTES)
    full = resident_mib()
    del pieces
    held = resident_mib()
    memory.trim_heap()
    assert full - held < 20, "nothing was held: the test has nothing to free"
    assert resident_mib() < held - 80
    assert len(above) == BYTES


def test_systems_without_it_do_nothing(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "win32")
    memory._malloc_trim.cache_clear()
    assert memory._malloc_trim() is None
    memory.trim_heap()
    memory._malloc_trim.cache_clear()


@pytest.mark.parametrize("error", [None, ValueError("wrong"), MemoryError()])
def test_every_call_of_a_node_is_followed_by_it(monkeypatch, error):
    events = []

    class Node:
        FUNCTION = "run"
        INPUT_TYPES = staticmethod(dict)

        def run(self):
            events.append("run")
            if error is not None:
                raise error

    monkeypatch.setattr(out_of_memory, "trim_heap", lambda: events.append("trim"))
    guarded = out_of_memory.guard_memory(Node, "T2MeshInfo")
    if error is None:
        guarded().run()
    else:
        with pytest.raises(type(error)):
            guarded().run()
    assert events == ["run", "trim"]

"""A process that compiles: runs the parts that it is given, and says on standard output what each of them took."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from ...o_voxel.core.compiling.notice import NOTICE

MARK = "trellis2 precompile "  # starts each line that is meant for the parent


def main(device_name: str, names: list[str]) -> None:
    """Runs the parts. Each gives a line before, and a line after with its seconds, kernels and error, as JSON."""
    import torch

    from ...o_voxel.core.backend import triton_probe
    from .parts import PARTS

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    device = torch.device(device_name)
    triton_probe(device, torch.float32)  # has Triton tell what it compiles
    for name in names:
        _say(part=name)
        begun, before, problem = time.monotonic(), NOTICE.kernels, ""
        try:
            PARTS[name].run(device)
        except Exception as error:  # noqa: BLE001 the other parts are of use without this one
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        _say(part=name, seconds=time.monotonic() - begun, kernels=NOTICE.kernels - before, problem=problem)
    sys.stdout.flush()
    os._exit(0)  # not by way of libraries' threads that would still have to be joined


def _say(**values: object) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(values)}\n")
    sys.stdout.flush()


def _end_with_parent() -> None:
    """Ends this process when the parent's end of standard input is closed."""
    sys.stdin.buffer.read()
    os._exit(1)

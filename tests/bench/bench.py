"""What the benches share: the pack loaded by path, timing, the standard shape, and a table that is also a CSV.

A bench prints, for each case, the median with the 20th and 80th percentile in milliseconds, the achieved rate, and
the floor: operations over 790 TFLOP/s or bytes over 4.3 TB/s (as measured on an H200), whichever is longer.
"""

from __future__ import annotations

import csv
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import surfaces
import torch

ROOT = Path(__file__).resolve().parents[2]
PEAK_FLOPS, PEAK_BYTES = 790e12, 4.3e12
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_pack() -> None:
    """Make the pack importable as `comfyui_trellis2`, as the tests do, unless one of them has done so."""
    if "comfyui_trellis2" in sys.modules:
        return
    name, folder = "comfyui_trellis2", [str(ROOT)]
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_trellis2"] = module
    spec.loader.exec_module(module)


load_pack()


def milliseconds(work: Callable[[], object], repeat: int = 20) -> list[float]:
    """Sorted times of `repeat` runs, after three to warm up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeat):
        if DEVICE.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begun = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - begun))
    return sorted(times)


def replayed(work: Callable[[], object]) -> Callable[[], object]:
    """`work` as a CUDA graph, so that small kernels are timed without what the host takes to launch them."""
    if DEVICE.type != "cuda":
        return work
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def peak_mib(work: Callable[[], object]) -> float:
    """MiB of device memory that `work` allocates at its peak, beyond what is held before; 0 on the CPU."""
    if DEVICE.type != "cuda":
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def show_profile(work: Callable[[], object]) -> None:
    """Print where the device time of one run goes."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        work()
        torch.cuda.synchronize()
    rows = sorted(trace.key_averages(), key=lambda row: -row.self_device_time_total)
    print(
        f"  {sum(row.self_device_time_total for row in rows) / 1e3:.3f} ms in {sum(row.count for row in rows)} kernels"
    )
    for row in rows[:16]:
        print(f"  {row.self_device_time_total / 1e3:9.3f} ms {row.count:5d} x {row.key[:90]}")


@dataclass
class Table:
    """Rows for one op, printed as they come and appended to results/<op>.csv where `save` is set."""

    op: str
    save: bool = False
    rows: list[dict[str, object]] = field(default_factory=list)

    def add(
        self,
        case: str,
        work: Callable[[], object],
        *,
        flops: float = 0.0,
        traffic: float = 0.0,
        repeat: int = 20,
        note: str = "",
    ) -> float:
        """Time `work`, which takes at least `flops` operations or `traffic` bytes. Returns the median."""
        times = milliseconds(work, repeat)
        median = statistics.median(times)
        low, high = times[len(times) // 5], times[-1 - len(times) // 5]
        rate = f"{flops / median / 1e9:7.1f} TFLOP/s" if flops else f"{traffic / median / 1e6:7.1f} GB/s"
        floor = 1e3 * max(flops / PEAK_FLOPS, traffic / PEAK_BYTES)
        print(f"{self.op:<20}{case:<30}{median:9.3f} ms ({low:.3f} to {high:.3f}) {rate:>18}  floor {floor:.3f} {note}")
        name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
        self.rows.append(
            {"case": case, "median_ms": median, "p20_ms": low, "p80_ms": high, "floor_ms": floor, "device": name}
            | {"torch": torch.__version__, "note": note}
        )
        return median

    def write(self) -> None:
        if not self.save:
            return
        path = ROOT / "tests" / "bench" / "results" / f"{self.op}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)


def surface_voxels(resolution: int, slab: int = 32) -> torch.Tensor:
    """[N, 3] int32 voxels whose corners straddle the standard shape's surface."""
    return surfaces.surface_voxels(surfaces.bumpy_sphere, resolution, DEVICE, slab)


def standard_dual_grid(resolution: int):
    """The dual grid of the standard shape, vertices towards the surface along the gradient."""
    return surfaces.dual_grid_of(surfaces.bumpy_sphere, resolution, DEVICE)

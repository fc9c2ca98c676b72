"""Loading all weights from a warm page cache: seconds from `Pipeline.load` to every network on the device, vram high.

Random weights of the published sizes are written into a temporary folder, which is deleted afterwards, and read twice:
once so that they are in the page cache, once to see how fast one thread reads them from there. That rate, and that of
copies from page-locked memory to the device, are what the machine allows; the floor is all bytes over the slower of the
two, as if they ran at the same time. The disk's rate is of the largest file, after the system was asked to forget it.
Main memory is the peak of what the process holds besides mapped files, above what it held before: a copy of the weights
beside the page cache shows there.

Where the disk, the main memory or the device has too little room for the weights, nothing is written, and that is said.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from bench import DEVICE, ROOT, Table
from comfyui_trellis2.trellis2.checkpoint.layouts import IMAGE_ENCODER
from comfyui_trellis2.trellis2.checkpoint.tiny import ENCODER, make_tiny
from comfyui_trellis2.trellis2.checkpoint.weights import save_weights
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.models.dino import VIT_L16, DinoConfig, DinoVisionTransformer
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.memory import host_memory, trim_heap

GB, MIB = 1e9, 2**20
PUBLISHED = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text(encoding="utf-8"))
PATHS = PUBLISHED["pipeline"]["args"]["models"]
ROLES = (*PATHS, IMAGE_ENCODER)
ENCODER_NAME = PUBLISHED["pipeline"]["args"]["image_cond_model"]["args"]["model_name"]
# The published encoder's config.json.
VIT_L16_FILE = ENCODER | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
VIT_L16_FILE |= {"intermediate_size": 4096}
# Beyond the weights: what else is on the disk and in memory. On a CPU the networks are in float32, beside the files.
ROOM, ON_CPU = 1.1, 2.0
BUFFER, SAMPLE_SECONDS = 64 * MIB, 0.005
STATUS = Path("/proc/self/status")


def described(role):
    """(path without suffix of a role's files in a checkpoint, description, network without memory)."""
    if role == IMAGE_ENCODER:
        assert DinoConfig.from_transformers(VIT_L16_FILE) == VIT_L16
        return None, VIT_L16_FILE, DinoVisionTransformer(VIT_L16, device="meta", dtype=torch.float32)
    return PATHS[role], PUBLISHED["models"][role], build_model(PUBLISHED["models"][role], role)


def make_published(folder, roles):
    """Write a checkpoint with random weights of the published shapes and dtypes; only `roles` have files."""
    (folder / "pipeline.json").write_text(json.dumps(PUBLISHED["pipeline"]), encoding="utf-8")
    for role in roles:
        path, description, model = described(role)
        encoder = folder / ENCODER_NAME
        text, weights = encoder / "config.json", encoder / "model.safetensors"
        if path is not None:
            text, weights = folder / f"{path}.json", folder / f"{path}.safetensors"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(json.dumps(description), encoding="utf-8")
        save_weights({key: random_like(tensor) for key, tensor in model.state_dict().items()}, weights)


def random_like(tensor):
    """Small Gaussian numbers on the CPU, made on the device."""
    dtype = tensor.dtype if tensor.is_complex() else torch.float32
    return torch.randn(tensor.shape, dtype=dtype, device=DEVICE).mul_(0.02).to(tensor.dtype).cpu()


def lacking(folder, size):
    """What this machine has too little of for `size` bytes of weights in `folder`, or None."""
    places = [("disk", shutil.disk_usage(folder).free, ROOM * size)]
    host = host_memory()
    if host is not None:
        places.append(("main memory", host.free, (ROOM if DEVICE.type == "cuda" else ROOM + ON_CPU) * size))
    if DEVICE.type == "cuda":
        places.append(("device", torch.cuda.mem_get_info()[0], ROOM * size))
    for name, free, needed in places:
        if free < needed:
            return f"needs {needed / GB:.1f} GB of the {name}, of which {free / GB:.1f} are free"
    return None


def read(paths):
    """Seconds in which one thread reads whole files into one buffer."""
    buffer, begun = memoryview(bytearray(BUFFER)), time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begun


def read_cold(path):
    """As `read`, of one file that the system was asked to forget; None where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return None
    with path.open("rb") as file:
        os.fsync(file.fileno())  # only what is written can be forgotten
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return read([path])


def bus_rate():
    """Bytes a second from page-locked memory to the device, None without one."""
    if DEVICE.type != "cuda":
        return None
    source = torch.empty(4 * BUFFER, dtype=torch.uint8, pin_memory=True)
    target, times = torch.empty_like(source, device=DEVICE), []
    for _ in range(8):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return len(source) / statistics.median(times)


class MainMemory:
    """The peak of what this process holds in main memory besides mapped files, in bytes above what it held before.
    peak: None where the system does not tell, else after the context has ended."""

    def __enter__(self):
        self.peak, self.before, self._over = None, self.held(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()
        self._look()

    @staticmethod
    def held():
        """Bytes at this moment, None where the system does not tell: the kernel's RssAnon and RssShmem."""
        if not STATUS.exists():
            return None
        fields = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines() if ":" in line)
        names = ("RssAnon", "RssShmem")
        return sum(1024 * int(fields[name].split()[0]) for name in names) if names[0] in fields else None

    def _look(self):
        if self.before is not None:
            self.peak = max(self.peak or 0, self.held() - self.before)

    def _watch(self):
        while not self._over.wait(SAMPLE_SECONDS):
            self._look()


def load(folder, roles):
    """What a user waits for: the pipeline with all networks on the device."""
    pipeline = Pipeline.load(str(folder), vram="high")
    for role in roles:
        with pipeline.model(role):
            pass
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return pipeline


def timed_loads(folder, roles, runs):
    """(sorted seconds, peak of main memory in bytes or None) of `runs` loads, each after the one before is gone."""
    times, peaks = [], []
    for _ in range(runs):
        trim_heap()  # what was freed before would be taken again unseen
        with MainMemory() as memory:
            begun = time.perf_counter()
            pipeline = load(folder, roles)
            times.append(time.perf_counter() - begun)
        peaks.append(memory.peak)
        pipeline.unload()
        del pipeline
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
    return sorted(times), None if None in peaks else max(peaks)


def measured(folder, roles, runs):
    """The rows of the checkpoint in `folder`, printed: one of the loads, then what the machine allows."""
    files = Pipeline.load(str(folder)).checkpoint.layout.files
    paths = [path for role in roles for path in files(role) if path.suffix == ".safetensors"]
    size, largest = sum(path.stat().st_size for path in paths), max(paths, key=lambda path: path.stat().st_size)
    if hasattr(os, "sync"):
        os.sync()  # else the disk is still written to while it is timed
    cold, bus = read_cold(largest), bus_rate()
    read(paths)
    cached = size / read(paths)
    rates = {"page cache, one thread": cached, "bus, page-locked": bus}
    rates["disk, largest file"] = None if cold is None else largest.stat().st_size / cold
    floor = size / min(cached, bus or cached)
    times, peak = timed_loads(folder, roles, runs)
    median, low, high = statistics.median(times), times[len(times) // 5], times[-1 - len(times) // 5]
    case = f"{len(roles)} networks, {size / GB:.3f} GB"
    held = "" if peak is None else f"  main memory + {peak / GB:.2f} GB"
    print(
        f"load {case:<26}{median:9.3f} s ({low:.3f} to {high:.3f}) {size / median / GB:7.2f} GB/s  floor {floor:.3f} s"
        f"{held}"
    )
    rows = [{"case": case, "median_s": median, "p20_s": low, "p80_s": high, "gb_per_s": size / median / GB}]
    rows[0] |= {"floor_s": floor, "main_memory_gb": "" if peak is None else peak / GB}
    for name, rate in rates.items():
        if rate is not None:
            print(f"load {name:<26}{rate / GB:9.3f} GB/s")
            rows.append(dict.fromkeys(rows[0], "") | {"case": name, "gb_per_s": rate / GB})
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return [row | {"device": device, "torch": torch.__version__} for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--roles", nargs="+", choices=ROLES, default=ROLES, help="networks (default: all)")
    parser.add_argument("--tiny", action="store_true", help="all networks at a few MB together, to try the bench")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made (default: the system's place)")
    parser.add_argument("--runs", type=int, default=5, help="of which the median is told")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("load", options.save)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.tiny:
            make_tiny(folder)
        else:
            models = [described(role)[2] for role in options.roles]
            problem = lacking(folder, sum(t.nbytes for model in models for t in model.state_dict().values()))
            if problem is not None:
                print(f"left out: {problem}")
                return 0
            make_published(folder, options.roles)
        table.rows = measured(folder, options.roles, options.runs)
    table.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())

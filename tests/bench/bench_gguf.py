"""How long a flow network of the published size takes to load from GGUF files, and what main memory it takes.

The structure flow: 1.34 billion weights at random, in blocks of Q4_K and Q8_0 and, to compare, zeros in a safetensors
file in bfloat16, which is mapped and read once here, and in float32 under the same name. Each loads in a process of its
own; the peak is the process' own, beyond what it holds before. The files, up to 1.5 GB, are written to a
temporary folder (`--folder`), one at a time.

    python tests/bench/bench_gguf.py [--folder DIR] [--formats Q4_K Q8_0 ...] [--gguf]

--gguf: the time of the package's numpy too.
"""

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import ROOT
from comfyui_trellis2.trellis2.checkpoint.gguf.blocks import BLOCKS
from comfyui_trellis2.trellis2.checkpoint.gguf.file import GgufFile
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.models import build_model

ROLE, NAME = "sparse_structure_flow_model", "ss_flow_img_dit_1_3B_64_bf16"
CASES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "bfloat16", "float32")


def shapes() -> dict[str, torch.Size]:
    published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text())
    state = build_model(published["models"][ROLE], ROLE).state_dict()
    return {key: value.shape for key, value in state.items() if not value.is_complex()}


def write(folder: Path, case: str) -> Path:
    """A folder with the network in one file, and everything that opening it reads. Weights repeat one random matrix."""
    published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text())
    (folder / "pipeline.json").write_text(json.dumps(published["pipeline"]))
    base = folder / "ckpts" / NAME
    base.parent.mkdir(exist_ok=True)
    base.with_suffix(".json").write_text(json.dumps(published["models"][ROLE]))
    if case in BLOCKS:
        spec = importlib.util.spec_from_file_location(
            "gguf_files", ROOT / "tests" / "trellis2" / "checkpoint" / "gguf_files.py"
        )
        files = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(files)
        size = files.BLOCKS[case][0]
        most = max(shape.numel() for shape in shapes().values())
        blocks = files.random_blocks(case, most // size, np.random.default_rng(0))
        tensors = {}
        for key, shape in shapes().items():
            in_blocks = len(shape) == 2 and shape[1] % size == 0
            count = shape.numel() // size
            tensors[key] = (
                (case, tuple(shape), blocks[:count]) if in_blocks else ("F32", tuple(shape), bytes(4 * shape.numel()))
            )
        files.write_gguf(base.with_name(f"{NAME}_{case}.gguf"), tensors, general__architecture="trellis2")
        return folder / "ckpts" / f"{NAME}_{case}.gguf"
    write_zeros(base.with_suffix(".safetensors"), case)
    return folder


def write_zeros(path: Path, case: str) -> None:
    """A safetensors file of zeros, which take no room on most disks."""
    width, header, offset = getattr(torch, case).itemsize, {}, 0
    for key, shape in shapes().items():
        end = offset + width * shape.numel()
        kind = {"bfloat16": "BF16", "float32": "F32"}[case]
        header[key], offset = {"dtype": kind, "shape": list(shape), "data_offsets": [offset, end]}, end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + offset)


def kilobytes(what: str) -> int:
    """A figure of /proc/self/status; 0 where the system has none."""
    status = Path("/proc/self/status")
    found = re.search(what + r":\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 0


def measure(source: str, quantization: str) -> None:
    """Prints seconds, those of all cores, MB of weights, and MB beyond what was held before: the peak, and what is not
    mapped at the end. In a child."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes()  # what a first call imports
    torch.nn.Linear(1, 1, device="meta").load_state_dict(
        {"weight": torch.ones(1, 1), "bias": torch.ones(1)}, assign=True
    )
    if quantization != "none":
        torch.ones(1, device=device)
    before = [kilobytes(what) for what in ("VmRSS", "RssAnon")]
    begun, worked = time.perf_counter(), time.process_time()
    model = Checkpoint.open(source, quantization=quantization).load_model(ROLE, device=device)
    sum(float(value.flatten()[:: 4096 // value.itemsize].real.float().sum()) for value in model.state_dict().values())
    took, worked = time.perf_counter() - begun, time.process_time() - worked
    held = sum(value.nbytes for value in model.state_dict().values()) / 1e6
    after = [kilobytes(what) for what in ("VmHWM", "RssAnon")]
    print(json.dumps([took, worked, held, *((a - b) * 1.024e-3 for a, b in zip(after, before, strict=True))]))


def package_seconds(path: Path) -> float:
    """Seconds in which the `gguf` package dequantises the file, to float32, one tensor at a time."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    begun = time.perf_counter()
    for tensor in GgufFile.open(path).tensors.values():
        raw = np.memmap(path, np.uint8, "r", tensor.offset, tensor.length)
        if tensor.form in BLOCKS:
            dequantize(raw.reshape(-1, BLOCKS[tensor.form].bytes), GGMLQuantizationType[tensor.form])
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--formats", nargs="*", default=["Q4_K", "Q8_0", "bfloat16", "float32"], choices=CASES)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--gguf", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        measure(*arguments.child)
        return
    columns = ("MB of it", "seconds", "of cores", "MB held", "peak MB", "unmapped")
    print(f"{'file':<10}{'as':<6}" + "".join(f"{column:>9}" for column in columns))
    for case in arguments.formats:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            source = write(Path(folder), case)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*_bf16*")) / 1e6
            for quantization in ("none", "int8"):
                command = [sys.executable, __file__, "--child", str(source), quantization]
                rows = [
                    json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                    for _ in range(arguments.repeat)
                ]
                took, worked, *memory = sorted(rows)[arguments.repeat // 2]
                figures = f"{took:9.1f}{worked:9.1f}" + "".join(f"{megabytes:9.0f}" for megabytes in memory)
                print(f"{case:<10}{'16' if quantization == 'none' else 'int8':<6}{size:9.0f}{figures}", flush=True)
            if arguments.gguf and case in BLOCKS:
                print(f"{case:<10}{'gguf package, to float32':<25}{package_seconds(source):8.1f}", flush=True)


if __name__ == "__main__":
    main()

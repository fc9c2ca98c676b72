"""Attention at the flow models' shapes, 12 heads of 128, bfloat16, by every backend that works here.

Each size as one item and as items of different lengths with the same sum, called and replayed from a CUDA graph, as the
networks run up to 16,384 tokens. The note has the largest error against float32 on some of the rows, times that of
torch's own choice. Baseline: FlashAttention-2 and cuDNN on an H200. What "auto" takes, AUTO of the op, follows it.
"""

import argparse
import time

import torch
from bench import DEVICE, Table, replayed
from comfyui_trellis2.o_voxel.core.backend import explain
from comfyui_trellis2.trellis2.ops.attention import BACKENDS, attention

HEADS, WIDTH = 12, 128
# Queries and keys of the stages: structure, shape at 512, shape and texture at 1024, the cap; each also to an image.
SIZES = ((4096, 4096), (4096, 1029), (2380, 2380), (2380, 1029), (9556, 9556), (9556, 4101), (49152, 49152))
SIZES += ((49152, 4101),)
# Shares of three objects in a batch.
SHARES = (0.2, 0.3, 0.5)
CHECKED_ROWS = 256


def split(total: int) -> tuple[int, ...]:
    first = [int(total * share) for share in SHARES[:-1]]
    return (*first, total - sum(first))


def tensors(queries: int, keys: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value as a network makes them: the value is a part of a projection."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    query = torch.randn(queries, HEADS, WIDTH, device=DEVICE, generator=generator).to(dtype)
    pair = torch.randn(keys, 2, HEADS, WIDTH, device=DEVICE, generator=generator).to(dtype)
    return [query, pair[:, 0].contiguous(), pair[:, 1]]


def error(given: list[torch.Tensor], lengths: tuple[tuple[int, ...], ...], out: torch.Tensor) -> float:
    """The largest difference from softmax in float32, on CHECKED_ROWS rows of each item."""
    parts = zip(
        *(x.split(n) for x, n in zip((*given, out), (*lengths, lengths[1], lengths[0]), strict=True)), strict=True
    )
    worst = 0.0
    for query, key, value, found in parts:
        rows = torch.linspace(0, len(query) - 1, CHECKED_ROWS, device=DEVICE).long().unique()
        exact = (x.float() for x in (query[rows], key, value))
        exact = attention(*exact, (len(rows),), (len(key),), backend="reference")
        worst = max(worst, float((found[rows].float() - exact).abs().max()))
    return worst


def bench(table: Table, queries: int, keys: int, names: list[str], dtype: torch.dtype) -> None:
    """Rows of one size: every backend, one item and three, called and replayed."""
    given = tensors(queries, keys, dtype)
    for kind, lengths in (("", ((queries,), (keys,))), (" in 3", (split(queries), split(keys)))):
        flops = 4.0 * sum(n * m for n, m in zip(*lengths, strict=True)) * HEADS * WIDTH
        plain = error(given, lengths, attention(*given, *lengths, backend="sdpa"))
        for name in names:
            if name == "reference" and queries * keys > 2**25:
                continue

            def work() -> torch.Tensor:
                return attention(*given, *lengths, backend=name)

            begun = time.perf_counter()
            out = work()
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            first = time.perf_counter() - begun
            wrong = error(given, lengths, out)
            note = f"error {wrong:.2e}, {wrong / plain:.2f} x sdpa's, first call {first:.2f} s"
            repeat = 20 if queries * keys < 2**30 else 5
            table.add(f"{queries} x {keys}{kind} {name}", work, flops=flops, note=note, repeat=repeat)
            if DEVICE.type != "cuda":
                continue
            kept = []
            replay = replayed(lambda: kept.append(work()))
            replay()
            again, eager = kept[-1], work()
            same = "same bits" if torch.equal(eager, again) else f"off by {(eager - again).abs().max():.1e}"
            table.add(f"{queries} x {keys}{kind} {name} graph", replay, flops=flops, note=same, repeat=repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", nargs="+", help="default: all that work here")
    parser.add_argument("--tokens", type=int, nargs="+", help="only the sizes with so many queries")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    begun = time.perf_counter()
    states = explain(BACKENDS, DEVICE, dtype)
    for name, state in states.items():
        print(f"{name:<14}{state}")
    print(f"all tried in {time.perf_counter() - begun:.1f} s")
    working = [name for name, state in states.items() if state.startswith(("chosen", "works"))]
    names = options.backends or working
    table = Table("attention", options.save)
    sizes = SIZES if DEVICE.type == "cuda" else ((512, 512),)
    for queries, keys in sizes:
        if not options.tokens or queries in options.tokens:
            bench(table, queries, keys, [name for name in names if name in working], dtype)
    table.write()


if __name__ == "__main__":
    with torch.inference_mode():
        main()

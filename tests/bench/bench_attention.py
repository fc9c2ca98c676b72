"""Attention at the flow models' shapes, 12 heads of 128, bfloat16. Baseline: FlashAttention-2 and cuDNN on an H200."""

import torch
from bench import DEVICE, Table
from comfyui_trellis2.trellis2.ops.attention import BACKENDS, attention

SHAPES = ((4096, 4096), (9556, 9556), (9556, 4101), (49152, 4101)) if DEVICE.type == "cuda" else ((512, 512),)


def main() -> None:
    table = Table("attention")
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    for queries, keys in SHAPES:
        q = torch.randn(queries, 12, 128, device=DEVICE, dtype=dtype)
        k, v = torch.randn(2, keys, 12, 128, device=DEVICE, dtype=dtype)
        for choice in BACKENDS:
            if choice.probe(DEVICE, dtype) is not None or (choice.name == "reference" and queries * keys > 2**25):
                continue
            table.add(
                f"{queries} x {keys} {choice.name}",
                lambda: attention(q, k, v, (queries,), (keys,), backend=choice.name),
                flops=4.0 * queries * keys * 12 * 128,
            )


if __name__ == "__main__":
    main()

"""Layer norm with modulation, and with weights, at the flow models' token counts, bfloat16."""

import torch
from bench import DEVICE, Table
from pack.trellis2.ops.norm_modulate import layer_norm, norm_modulate

CHANNELS = 1536


def main() -> None:
    table = Table("norm_modulate")
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    for tokens in (2380, 4096, 9556, 49152):
        x = torch.randn(tokens, CHANNELS, device=DEVICE, dtype=dtype)
        scale, shift = torch.randn(2, 1, CHANNELS, device=DEVICE, dtype=dtype)
        weight, bias = torch.randn(2, CHANNELS, device=DEVICE)
        traffic = 2.0 * x.nbytes
        for backend in ("auto", "reference"):
            table.add(
                f"{tokens} modulate {backend}",
                lambda: norm_modulate(x, scale, shift, None, backend=backend),
                traffic=traffic,
            )
            table.add(
                f"{tokens} affine {backend}",
                lambda: layer_norm(x, weight, bias, backend=backend),
                traffic=traffic,
            )


if __name__ == "__main__":
    main()

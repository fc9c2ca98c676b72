"""RMS norm and rotation of queries at the flow models' token counts, bfloat16, from a packed QKV."""

import torch
from bench import DEVICE, Table
from comfyui_trellis2.trellis2.ops.rope import rms_norm_rope, rotary_angles

HEADS, WIDTH = 12, 128


def main() -> None:
    table = Table("rope")
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    for tokens in (2380, 4096, 9556, 49152):
        packed = torch.randn(tokens, 3, HEADS, WIDTH, device=DEVICE, dtype=dtype)
        gamma = torch.randn(HEADS, WIDTH, device=DEVICE)
        angles = rotary_angles(torch.randint(0, 64, (tokens, 3), device=DEVICE), WIDTH)
        rotation = (angles.cos(), angles.sin())
        for backend in ("auto", "reference"):
            table.add(
                f"{tokens} {backend}",
                lambda: rms_norm_rope(packed[:, 0], gamma, rotation, backend=backend),
                traffic=2.0 * packed.nbytes / 3 + 2 * angles.nbytes,
            )


if __name__ == "__main__":
    main()

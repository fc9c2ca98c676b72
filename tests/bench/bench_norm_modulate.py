"""Layer norm with modulation, with weights, and with a branch before and int8 after it, at the flow models' token
counts, bfloat16."""

import torch
from bench import DEVICE, Table, replayed
from comfyui_trellis2.trellis2.ops.norm_modulate import ResidualBranch, add_norm_modulate, layer_norm, norm_modulate
from comfyui_trellis2.trellis2.ops.quantized_linear import FORMATS

CHANNELS = 1536


def main() -> None:
    table = Table("norm_modulate")
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    for tokens in (2380, 4096, 9556, 49152):
        x = torch.randn(tokens, CHANNELS, device=DEVICE, dtype=dtype)
        scale, shift = torch.randn(2, 1, CHANNELS, device=DEVICE, dtype=dtype)
        weight, bias = torch.randn(2, CHANNELS, device=DEVICE)
        branch, traffic = ResidualBranch(torch.randn_like(x), scale), 2.0 * x.nbytes
        for backend in ("auto", "reference"):
            table.add(
                f"{tokens} modulate {backend}",
                replayed(lambda: norm_modulate(x, scale, shift, None, backend=backend)),
                traffic=traffic,
            )
            table.add(
                f"{tokens} affine {backend}",
                replayed(lambda: layer_norm(x, weight, bias, backend=backend)),
                traffic=traffic,
            )
            for form, passes in ((None, 4.0), (FORMATS["int8"], 3.5)):
                table.add(
                    f"{tokens} branch {form.name if form else 'bf16'} {backend}",
                    replayed(lambda: add_norm_modulate(x, branch, scale, shift, None, form=form, backend=backend)),
                    traffic=passes * x.nbytes,
                )


if __name__ == "__main__":
    main()

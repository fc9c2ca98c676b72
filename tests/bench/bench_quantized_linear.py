"""Eight-bit linear layers at the flow models' shapes, against bfloat16 through cuBLAS; and quantising their inputs."""

import argparse
import itertools

import torch
from bench import DEVICE, Table, replayed
from comfyui_trellis2.trellis2.ops.quantized_linear import FORMATS, kernel, quantize_rows, quantized_linear

# What a block multiplies: (name, input channels, output channels)
LAYERS = (("to_qkv", 1536, 4608), ("to_out", 1536, 1536), ("mlp.0", 1536, 8192), ("mlp.2", 8192, 1536))
PRODUCTS = (("int8", "triton"), ("int8", "int_mm"), ("fp8", "triton"), ("fp8", "scaled_mm"))
# Tiles to try: block_t, block_n, block_k, warps, stages.
TILES = (
    (128, 128, 128, 4, 3),
    (128, 128, 128, 4, 4),
    (128, 128, 128, 8, 3),
    (128, 128, 64, 4, 5),
    (128, 256, 128, 8, 3),
    (128, 256, 128, 8, 4),
    (256, 128, 128, 8, 3),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[2380, 4096, 9556, 49152])
    parser.add_argument("--layers", nargs="+", default=[name for name, _, _ in LAYERS])
    parser.add_argument("--products", nargs="+", default=[" ".join(product) for product in PRODUCTS])
    parser.add_argument("--sweep", action="store_true", help="try tile shapes instead")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    table = Table("quantized_linear", options.save)
    for tokens, (name, k, n) in itertools.product(options.tokens, LAYERS):
        if name not in options.layers:
            continue
        x = torch.randn(tokens, k, device=DEVICE, dtype=torch.bfloat16)
        weight = torch.randn(n, k, device=DEVICE, dtype=torch.bfloat16)
        bias = torch.randn(n, device=DEVICE, dtype=torch.bfloat16)
        flops = 2.0 * tokens * k * n
        table.add(f"{tokens} {name} bf16", replayed(lambda: torch.nn.functional.linear(x, weight, bias)), flops=flops)
        for form, backend in PRODUCTS:
            if f"{form} {backend}" not in options.products:
                continue
            small, kept = (quantize_rows(matrix, FORMATS[form]) for matrix in (x, weight))

            def multiply() -> torch.Tensor:
                return quantized_linear(small, kept, bias, torch.bfloat16, backend=backend)

            if not options.sweep:
                table.add(f"{tokens} {name} {form} {backend}", replayed(multiply), flops=flops / 2)
            elif backend == "triton":
                sweep(table, f"{tokens} {name} {form}", multiply, flops / 2)
        traffic = 1.5 * x.nbytes
        gelu = "gelu" if name == "mlp.2" else None
        if not options.sweep:
            table.add(
                f"{tokens} {name} rows", replayed(lambda: quantize_rows(x, FORMATS["int8"], gelu)), traffic=traffic
            )
    table.write()


def sweep(table, name, multiply, flops) -> None:
    """Tile shapes that compile, for choosing a Config."""
    chosen = kernel.choose_config
    for tile in TILES:
        config = kernel.Config(*tile)
        kernel.choose_config = lambda *_, config=config: config
        try:
            table.add(f"{name} {tile}", replayed(multiply), flops=flops, repeat=5)
        except (RuntimeError, ValueError, kernel.triton.CompilationError, kernel.triton.OutOfResources) as error:
            print(name, tile, type(error).__name__)
    kernel.choose_config = chosen


if __name__ == "__main__":
    main()

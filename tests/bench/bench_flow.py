"""One forward of the flow models at the published size, random weights in bfloat16. Baseline: the reference, H200."""

import argparse
import json
import time

import torch
from bench import DEVICE, ROOT, Table, peak_mib, show_profile
from comfyui_trellis2.trellis2.models import Backends, build_model
from comfyui_trellis2.trellis2.models.quantized import quantize_model
from comfyui_trellis2.trellis2.models.transformer import PreparedCondition
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, SparseTensor

# name: (role, tokens, image tokens, the reference's milliseconds). The negative condition is one token.
CASES = {
    "structure": ("sparse_structure_flow_model", 4096, 1029, 44.3),
    "latent 2,380": ("shape_slat_flow_model_512", 2380, 1029, 69.4),
    "latent 9,556": ("shape_slat_flow_model_1024", 9556, 4101, 169.4),
    "structure negative": ("sparse_structure_flow_model", 4096, 1, 44.3),
    "latent 9,556 negative": ("shape_slat_flow_model_1024", 9556, 1, 169.4),
    "latent 49,152": ("shape_slat_flow_model_1024", 49152, 4101, 1757.0),
}


def floor_flops(tokens: int, image_tokens: int, c: int = 1536, hidden: int = 8192, blocks: int = 30) -> float:
    linear = 2 * tokens * (4 * c * c + 2 * c * c + 2 * c * hidden)
    return blocks * (linear + 4 * tokens * tokens * c + 4 * tokens * image_tokens * c)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launch", nargs="+", default=["auto"])
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    parser.add_argument("--quantization", nargs="+", default=["none", "int8", "fp8"])
    parser.add_argument("--attention", nargs="+", default=["auto"])
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    table = Table("flow", options.save)
    published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text())["models"]
    for case in options.cases:
        for quantization in options.quantization:
            for attention in options.attention:
                run_case(table, published, case, quantization, attention, options)
    table.write()


def run_case(table, published, case, quantization, attention, options) -> None:
    """One network in one number format and with one attention, by every launch mode."""
    role, tokens, image_tokens, reference = CASES[case]
    flow = build_model(published[role], role, backends=Backends(attention=attention), device=DEVICE)
    note = f"reference {reference}"
    if quantization != "none":
        begun = time.perf_counter()
        quantize_model(flow, quantization, DEVICE)
        torch.cuda.synchronize()
        note = f"quantised in {time.perf_counter() - begun:.2f} s"
    with torch.no_grad():
        image = flow.prepare(PackedSequences(torch.randn(image_tokens, 1024, device=DEVICE), (image_tokens,)))
        forward, x = forward_of(flow, tokens, image.lengths)
        t = torch.full((1,), 500.0, device=DEVICE)
        for launch in options.launch:
            flow.graphs.begin(flow, x.device, launch=launch, tokens=tokens)
            step = flow.graphs.step("positive", forward, x, image.tensors())
            begun = time.perf_counter()
            step(x, t)
            torch.cuda.synchronize()
            first = time.perf_counter() - begun
            told = f"{note}, first call {first:.2f} s, peak {peak_mib(lambda: step(x, t)):.0f} MiB"
            work = floor_flops(tokens, image_tokens)
            table.add(
                f"{case} {quantization} {launch}" + f" {attention}" * (attention != "auto"),
                lambda: step(x, t),
                flops=work,
                repeat=10 if tokens < 16_384 else 3,
                note=told,
            )
            if options.profile:
                show_profile(lambda: step(x, t))


def forward_of(flow, tokens, lengths):
    """(forward(x, t, *keys and values), x) of the structure flow, or of a latent flow on a compact set of voxels."""
    if flow.config.resolution == 16:
        x = torch.randn(1, 8, 16, 16, 16, device=DEVICE)
        return (lambda x, t, *image: flow(x, t, PreparedCondition.of(image, lengths))), x
    axis = torch.arange(64, device=DEVICE)
    voxels = torch.cartesian_prod(axis, axis, axis)[:tokens].int()
    coords = CoordSet.from_items([voxels])

    def forward(x, t, *image):
        return flow(SparseTensor(x, coords), t, PreparedCondition.of(image, lengths)).feats

    return forward, torch.randn(tokens, flow.config.in_channels, device=DEVICE)


if __name__ == "__main__":
    main()

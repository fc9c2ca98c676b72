"""What 8-bit products change: relative errors of the structure flow at the published size, random weights.

One forward and a run of 12 steps, against float32, of bfloat16 and of each format (`rotated`: int8 with the rotation of
ComfyUI's files). Random weights have no outliers, so real ones will differ; this is the error of the arithmetic.
"""

import json
from dataclasses import replace

import torch
from bench import DEVICE, ROOT
from comfyui_trellis2.trellis2.checkpoint.config import parse_pipeline
from comfyui_trellis2.trellis2.checkpoint.int8_file import hadamard_transform
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.models.quantized import QuantizedLinear, quantizable, quantize_model
from comfyui_trellis2.trellis2.ops.quantized_linear import FORMATS, quantize_rows
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_structure_latent
from comfyui_trellis2.trellis2.sparse import PackedSequences
from comfyui_trellis2.trellis2.values import ImageCondition

ROLE = "sparse_structure_flow_model"
VARIANTS = ("float32", "bfloat16", "int8", "fp8", "rotated")


@torch.no_grad()
def main() -> None:
    published = json.loads((ROOT / "trellis2" / "checkpoint" / "published.json").read_text())
    sampler = parse_pipeline(published["pipeline"], "published.json").sparse_structure_sampler
    generator = torch.Generator(DEVICE).manual_seed(0)
    state = random_state(build_model(published["models"][ROLE], ROLE, dtype="float32", device=DEVICE), generator)
    noise = torch.randn(1, 8, 16, 16, 16, generator=generator, device=DEVICE)
    condition = ImageCondition(torch.randn(1, 1, 1029, 1024, generator=generator, device=DEVICE), None)
    wanted = None
    for variant in VARIANTS:
        flow = variant_of(published["models"][ROLE], state, variant)
        tokens = PackedSequences.from_items(list(condition.tokens_512[0]))
        got = [flow(noise, torch.full((1,), 500.0, device=DEVICE), tokens)]
        for changes in ({"guidance_strength": 1.0}, {}, {"guidance_strength": 1.0, "step_cache": True}):
            changed = replace(sampler, params=replace(sampler.params, **changes))
            got.append(sample_structure_latent(flow, noise, condition, changed))
        wanted = got if wanted is None else wanted
        errors = [float((out - full).norm() / full.norm()) for out, full in zip(got, wanted, strict=True)]
        cached = float((got[3] - got[1]).norm() / got[1].norm())
        print(
            f"{variant:<10}forward {errors[0]:.4f}   12 steps {errors[1]:.4f}, guided by 7.5 {errors[2]:.4f}   "
            f"step cache against none {cached:.4f}"
        )
        del flow


def random_state(model, generator):
    """Gaussian weights that keep activations near unit size; norms near one."""
    for name, parameter in model.named_parameters():
        gain = name.endswith(("gamma", "norm2.weight"))
        spread = 0.02 if parameter.ndim == 1 or gain else parameter.shape[-1] ** -0.5
        parameter.normal_(float(gain), spread, generator=generator)
    return model.state_dict()


def variant_of(description, state, variant):
    dtype = "float32" if variant == "float32" else "bfloat16"
    flow = build_model(description, ROLE, dtype=dtype, device=DEVICE)
    flow.load_state_dict(state)
    if variant == "rotated":
        for path in quantizable(flow):
            layer = flow.get_submodule(path)
            weight = quantize_rows(hadamard_transform(layer.weight.float(), 256), FORMATS["int8"])
            flow.set_submodule(path, QuantizedLinear(weight, layer.bias, FORMATS["int8"], rotation=256))
        return flow
    return quantize_model(flow, variant, DEVICE) if variant in FORMATS else flow


if __name__ == "__main__":
    main()

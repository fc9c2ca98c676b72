"""DINOv3 vision transformer: pixels to the image tokens that condition every stage.

The feature is the reference's: the last layer's hidden state of all tokens, without the model's own final norm, then a
layer norm without weights. Letters: B images, S pixels a side, P = (S / patch)^2 patches, R registers, T = 1 + R + P
tokens, C channels, H heads, D = C / H.

Module names are the keys of the published transformers checkpoint (facebook/dinov3-vitl16-pretrain-lvd1689m);
`to_transformers_keys` converts the timm and ComfyUI layouts. Architecture: DINOv3, arXiv 2508.10104.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...o_voxel.core.checks import FLOATS, check_tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DinoConfig:
    """Configuration of a DINOv3 ViT with a plain GELU MLP. RoPE periods range from 1 to almost rope_theta half
    images."""

    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    patch_size: int
    num_registers: int
    rope_theta: float
    norm_eps: float
    query_bias: bool
    key_bias: bool
    value_bias: bool
    proj_bias: bool
    mlp_bias: bool

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_heads):
            raise ValueError(
                "DinoConfig: expected hidden_size as a multiple of 4 * num_heads (RoPE rotates pairs along 2 axes), "
                f"got {self.hidden_size} and {self.num_heads}"
            )

    @classmethod
    def from_transformers(cls, values: Mapping[str, Any]) -> DinoConfig:
        """Parses the config.json of a DINOv3 ViT; absent keys have transformers' defaults.

        Raises ValueError naming the key: a size is absent, or the model is unsupported (another model type, activation
        or input, or a gated MLP).
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"DINOv3 config: expected an object, got {type(values).__name__}")
        for key, supported in _SUPPORTED.items():
            if values.get(key, supported[0]) not in supported:
                expected = " or ".join(repr(value) for value in supported)
                raise ValueError(f"DINOv3 config: expected {key} = {expected}, got {values[key]!r}")
        absent = [key for key in _SIZES.values() if type(values.get(key)) is not int]
        if absent:
            raise ValueError(f"DINOv3 config: expected an integer for {', '.join(absent)}")
        sizes = {field: values[key] for field, key in _SIZES.items()}
        options = {field: values.get(key, default) for field, (key, default) in _OPTIONS.items()}
        for field, (key, default) in _OPTIONS.items():
            kinds = (int, float) if type(default) is float else (type(default),)
            if type(options[field]) not in kinds or not math.isfinite(options[field]):
                raise ValueError(f"DINOv3 config: expected {key} as {default!r}, got {options[field]!r:.60}")
        for field, value in {**sizes, "patch_size": options["patch_size"]}.items():
            least, most = _LIMITS[field]
            if not least <= value <= most:
                raise ValueError(f"DINOv3 config: expected {least} to {most} for {field}, got {value:.20g}")
        return cls(**sizes, **options)


_SUPPORTED = {
    "model_type": ("dinov3_vit", "dinov3"),
    "hidden_act": ("gelu",),
    "use_gated_mlp": (False,),
    "num_channels": (3,),
}
_SIZES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_size": "intermediate_size",
    "num_registers": "num_register_tokens",
}
_OPTIONS = {
    "patch_size": ("patch_size", 16),
    "rope_theta": ("rope_theta", 100.0),
    "norm_eps": ("layer_norm_eps", 1e-5),
    "query_bias": ("query_bias", True),
    "key_bias": ("key_bias", False),
    "value_bias": ("value_bias", True),
    "proj_bias": ("proj_bias", True),
    "mlp_bias": ("mlp_bias", True),
}

# (least, most): several times beyond the largest that is published.
_LIMITS = {
    "hidden_size": (4, 1 << 16),
    "num_layers": (1, 256),
    "num_heads": (1, 1024),
    "mlp_size": (1, 1 << 18),
    "num_registers": (0, 1024),
    "patch_size": (1, 1024),
}

VIT_L16 = DinoConfig(
    hidden_size=1024,
    num_layers=24,
    num_heads=16,
    mlp_size=4096,
    patch_size=16,
    num_registers=4,
    rope_theta=100.0,
    norm_eps=1e-5,
    query_bias=True,
    key_bias=False,
    value_bias=True,
    proj_bias=True,
    mlp_bias=True,
)


class DinoVisionTransformer(nn.Module):
    """A frozen feature extractor. Weights are uninitialised until a state dict is loaded; the meta device works.

    Linear layers run in `dtype`; the residual stream, norms and RoPE in float32 (float64 for a float64 module).
    """

    def __init__(
        self, config: DinoConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.config = config
        self.embeddings = _Embeddings(config, factory)
        self.layer = nn.ModuleList(DinoLayer(config, factory) for _ in range(config.num_layers))
        # Published with the weights but never applied: the feature is taken before it.
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, **factory)
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pixels [B, 3, S, S] float from `image.to_pixels`, S a multiple of the patch size, to tokens [B, T, C]
        float32.

        Token order: class, registers, patches row by row. Raises ValueError on another shape.
        """
        check_tensor(pixels, "pixels", (None, 3, None, None), FLOATS)
        side, patch = pixels.shape[-1], self.config.patch_size
        if pixels.shape[-2] != side or side % patch or side == 0:
            raise ValueError(
                f"pixels: expected a square with a side that is a multiple of {patch}, got {list(pixels.shape)}"
            )
        tokens = self.embeddings(pixels)
        phases = rope_phases(self.config, side // patch, tokens.device)
        phases = (phases[0].to(tokens.dtype), phases[1].to(tokens.dtype))
        for layer in self.layer:
            tokens = layer(tokens, phases)
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)


def rope_phases(config: DinoConfig, side: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of every patch's angles, each [side * side, D / 2] float32, patches row by row.

    The first D / 4 angles are the row's, the others the column's: 2 pi y theta^(-j / (D / 4)), with y the patch centre
    in [-1, 1] over the image, independent of its size.
    """
    count = config.hidden_size // config.num_heads // 4
    exponents = torch.arange(count, dtype=torch.float32, device=device) / count
    centres = (torch.arange(side, dtype=torch.float32, device=device) + 0.5) / side * 2 - 1
    positions = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).view(-1, 2, 1)
    angles = (2 * math.pi * positions * (1 / config.rope_theta**exponents)).flatten(1)
    return angles.cos(), angles.sin()


class _Embeddings(nn.Module):
    def __init__(self, config: DinoConfig, factory: dict[str, Any]) -> None:
        super().__init__()
        size = config.hidden_size
        self.cls_token = nn.Parameter(torch.empty(1, 1, size, **factory))
        # For pretraining only; kept so that the published state dict loads strictly.
        self.mask_token = nn.Parameter(torch.empty(1, 1, size, **factory))
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_registers, size, **factory))
        self.patch_embeddings = nn.Conv2d(3, size, config.patch_size, config.patch_size, **factory)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embeddings(pixels.to(self.cls_token.dtype)).flatten(2).transpose(1, 2)
        prefix = [token.expand(len(pixels), -1, -1) for token in (self.cls_token, self.register_tokens)]
        return torch.cat([*prefix, patches], dim=1).to(torch.promote_types(patches.dtype, torch.float32))


class DinoLayer(nn.Module):
    def __init__(self, config: DinoConfig, factory: dict[str, Any]) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, **factory)
        self.attention = _Attention(config, factory)
        self.layer_scale1 = _LayerScale(config, factory)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, **factory)
        self.mlp = _Mlp(config, factory)
        self.layer_scale2 = _LayerScale(config, factory)

    def forward(self, tokens: Tensor, phases: tuple[Tensor, Tensor]) -> Tensor:
        """tokens: [B, T, C].  phases: (cos, sin), [P, D / 2] each. Returns [B, T, C]."""
        dtype = self.mlp.up_proj.weight.dtype
        hidden = self.attention(_normed(tokens, self.norm1).to(dtype), phases)
        tokens = tokens + self.layer_scale1(hidden).to(tokens.dtype)
        hidden = self.mlp(_normed(tokens, self.norm2).to(dtype))
        return tokens + self.layer_scale2(hidden).to(tokens.dtype)


class _LayerScale(nn.Module):
    def __init__(self, config: DinoConfig, factory: dict[str, Any]) -> None:
        super().__init__()
        self.lambda1 = nn.Parameter(torch.empty(config.hidden_size, **factory))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.lambda1


class _Mlp(nn.Module):
    def __init__(self, config: DinoConfig, factory: dict[str, Any]) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_size, bias=config.mlp_bias, **factory)
        self.down_proj = nn.Linear(config.mlp_size, config.hidden_size, bias=config.mlp_bias, **factory)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden)))


class _Attention(nn.Module):
    def __init__(self, config: DinoConfig, factory: dict[str, Any]) -> None:
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(size, size, bias=config.query_bias, **factory)
        self.k_proj = nn.Linear(size, size, bias=config.key_bias, **factory)
        self.v_proj = nn.Linear(size, size, bias=config.value_bias, **factory)
        self.o_proj = nn.Linear(size, size, bias=config.proj_bias, **factory)

    def forward(self, hidden: Tensor, phases: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (
            proj(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(_rotated(query, phases), _rotated(key, phases), value)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


def _normed(tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
    weight, bias = norm.weight.to(tokens.dtype), norm.bias.to(tokens.dtype)
    return F.layer_norm(tokens, norm.normalized_shape, weight, bias, norm.eps)


def _rotated(heads: Tensor, phases: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates the last P tokens of heads [B, H, T, D]: channel i is paired with channel i + D / 2."""
    cos, sin = phases
    prefix, patches = heads.split([heads.shape[-2] - len(cos), len(cos)], dim=-2)
    first, second = patches.to(cos.dtype).chunk(2, dim=-1)
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([prefix, rotated.to(heads.dtype)], dim=-2)


_TIMM_KEYS = {
    "cls_token": "embeddings.cls_token",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.bias",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
_TIMM_BLOCK_KEYS = {
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "attn.q_bias": "attention.q_proj.bias",
    "attn.v_bias": "attention.v_proj.bias",
    "attn.proj.weight": "attention.o_proj.weight",
    "attn.proj.bias": "attention.o_proj.bias",
    "gamma_1": "layer_scale1.lambda1",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
    "mlp.fc1.weight": "mlp.up_proj.weight",
    "mlp.fc1.bias": "mlp.up_proj.bias",
    "mlp.fc2.weight": "mlp.down_proj.weight",
    "mlp.fc2.bias": "mlp.down_proj.bias",
    "gamma_2": "layer_scale2.lambda1",
}
_TIMM_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def to_transformers_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames a DINOv3 ViT state dict of any published layout to the keys of `DinoVisionTransformer`.

    transformers: `layer.0.…`, or `model.layer.0.…` as release 5 names it in memory.  ComfyUI: transformers' names, and
    `naf.…`, the weights of an upsampler that TRELLIS.2 does not use, dropped here.  timm: `blocks.0.…` with query, key
    and value in one matrix (split into views); the mask token, and query and value biases absent from the file, become
    zero: the mask token serves pretraining only, and the distilled models' biases are all zero.

    Tensors are shared, the input is unchanged. Raises ValueError on another layout and on unknown names.
    """
    if "embeddings.cls_token" in state:
        kept = {key: value for key, value in state.items() if not key.startswith("naf.")}
        return {re.sub(r"^model\.(?=layer\.)", "", key): value for key, value in kept.items()}
    if "cls_token" in state and "blocks.0.attn.qkv.weight" in state:
        return _from_timm(state)
    raise ValueError(
        "DINOv3 weights: expected the transformers, timm or ComfyUI layout, with embeddings.cls_token or cls_token and "
        f"blocks.0.attn.qkv.weight; got {_first(state)}"
    )


def _from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    converted = {"embeddings.mask_token": torch.zeros_like(state["cls_token"])}
    has_biases = any(key.endswith((".attn.q_bias", ".attn.v_bias")) for key in state)
    unknown = []
    for key, value in state.items():
        block = _TIMM_BLOCK.fullmatch(key)
        if key in _TIMM_KEYS:
            converted[_TIMM_KEYS[key]] = value
        elif block and block[2] in _TIMM_BLOCK_KEYS:
            converted[f"layer.{block[1]}.{_TIMM_BLOCK_KEYS[block[2]]}"] = value
        elif block and block[2] == "attn.qkv.weight":
            for name, part in zip("qkv", value.chunk(3), strict=True):
                converted[f"layer.{block[1]}.attention.{name}_proj.weight"] = part
                if name != "k" and not has_biases:
                    converted[f"layer.{block[1]}.attention.{name}_proj.bias"] = part.new_zeros(len(part))
        else:
            unknown.append(key)
    if unknown:
        raise ValueError(f"DINOv3 weights in timm's layout: {len(unknown)} unknown names: {_first(unknown)}")
    return converted


def _first(keys: Mapping[str, Tensor] | list[str]) -> str:
    listed = list(keys)
    return ", ".join(listed[:5]) + (", …" if len(listed) > 5 else "") if listed else "no weights"

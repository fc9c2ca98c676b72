"""Flow transformer (DiT with adaptive layer norm) over packed tokens, of dense grids or of sparse voxels.

Letters: T tokens of all batch items together, B items, S image tokens, C model channels, H heads, d channels a head, P
projected features of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..checkpoint.config import FlowConfig
from ..ops.attention import attention
from ..ops.norm_modulate import ResidualBranch, add_branch, add_norm_affine, add_norm_modulate
from ..ops.quantized_linear import Quantized
from ..ops.rope import qk_norm_rope, rms_norm_rope
from ..runtime.cuda_graphs import GraphCache
from ..sparse.tensor import PackedSequences, ProjectedSequences
from .layers import Backends, FeedForward, LayerNorm32, MultiHeadRMSNorm, TimestepEmbedder, cast_layers
from .quantized import input_form

Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """lengths: tokens of each item.  item: [T] int64, each token's item, None when B is 1. rotation: (cos, sin) [T, d /
    2] of the tokens' positions, None without RoPE."""

    lengths: tuple[int, ...]
    item: Tensor | None
    rotation: Rotation | None


@dataclass(frozen=True, eq=False)
class ResidualStream:
    """The residual stream between two blocks, x [T, C] + branch. The next norm, which reads both, computes the sum; the
    first stream has no branch."""

    x: Tensor
    branch: ResidualBranch | None = None

    def total(self, item: Tensor | None) -> Tensor:
        """Returns the sum [T, C]. item: [T] int64, each token's item, None when B is 1."""
        return add_branch(self.x, self.branch, item)


class SelfAttention(nn.Module):
    attend = staticmethod(attention)  # an attribute, which training excludes from compilation

    def __init__(self, config: FlowConfig, backends: Backends) -> None:
        super().__init__()
        channels, self.heads, self.backends = config.model_channels, config.heads, backends
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = nn.Linear(channels, channels)
        if config.qk_rms_norm:
            self.q_rms_norm = MultiHeadRMSNorm(self.heads, config.head_channels)
            self.k_rms_norm = MultiHeadRMSNorm(self.heads, config.head_channels)
        self.normed = config.qk_rms_norm

    def forward(self, x: Tensor | Quantized, layout: TokenLayout) -> Tensor:
        """x: [T, C], or quantised. Returns [T, C]."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))
        gammas = (self.q_rms_norm.gamma, self.k_rms_norm.gamma) if self.normed else None
        q, k = qk_norm_rope(qkv, gammas, layout.rotation, backend=self.backends.rope)
        out = self.attend(q, k, qkv[:, 2], layout.lengths, layout.lengths, backend=self.backends.attention)
        return self.to_out(out.flatten(-2))


class CrossAttention(nn.Module):
    attend = staticmethod(attention)

    def __init__(self, config: FlowConfig, backends: Backends) -> None:
        super().__init__()
        channels, self.heads, self.backends = config.model_channels, config.heads, backends
        self.to_q = nn.Linear(channels, channels)
        self.to_kv = nn.Linear(config.cond_channels, 2 * channels)
        self.to_out = nn.Linear(channels, channels)
        if config.qk_rms_norm_cross:
            self.q_rms_norm = MultiHeadRMSNorm(self.heads, config.head_channels)
            self.k_rms_norm = MultiHeadRMSNorm(self.heads, config.head_channels)
        self.normed = config.qk_rms_norm_cross

    def prepare(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Computes keys and values [S, H, d] of the image tokens [S, cond_channels], constant over the steps."""
        k, v = self.to_kv(condition).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        if self.normed:
            k = rms_norm_rope(k, self.k_rms_norm.gamma, None, backend=self.backends.rope)
        return k, v

    def forward(
        self,
        x: Tensor | Quantized,
        prepared: tuple[Tensor, Tensor],
        lengths: tuple[int, ...],
        layout: TokenLayout,
    ) -> Tensor:
        """x: [T, C], or quantised.  prepared: see `prepare`.  lengths: image tokens of each item. Returns [T, C]."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1))
        if self.normed:
            q = rms_norm_rope(q, self.q_rms_norm.gamma, None, backend=self.backends.rope)
        out = self.attend(q, *prepared, layout.lengths, lengths, backend=self.backends.attention)
        return self.to_out(out.flatten(-2))

    def constant(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the output [B, C] for items with a single image token, the same for every query."""
        return self.to_out(prepared[1].flatten(-2))


class ProjectedCrossAttention(nn.Module):
    """Cross-attention to a few tokens of the whole image, plus a linear layer of each token's projected features.

    Pixal3D's image_attn_mode "proj". Projected features of None stand for zeros: only the layer's bias is left.
    """

    def __init__(self, config: FlowConfig, backends: Backends) -> None:
        super().__init__()
        self.cross_attn_block = CrossAttention(config, backends)
        self.proj_linear = nn.Linear(config.projected_channels, config.model_channels)

    def prepare(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See `CrossAttention.prepare`."""
        return self.cross_attn_block.prepare(condition)

    def forward(
        self,
        x: Tensor | Quantized,
        prepared: tuple[Tensor, Tensor],
        lengths: tuple[int, ...],
        layout: TokenLayout,
        projected: Tensor | None,  # [T, P]
    ) -> Tensor:
        """As `CrossAttention.forward`. Returns [T, C]."""
        attended = self.cross_attn_block(x, prepared, lengths, layout)
        return attended + (self.proj_linear.bias if projected is None else self.proj_linear(projected))

    def constant(self, prepared: tuple[Tensor, Tensor]) -> Tensor:
        """Returns the output [B, C] for items with a single image token and no projected features."""
        return self.cross_attn_block.constant(prepared) + self.proj_linear.bias


class Block(nn.Module):
    """Self-attention, cross-attention to the image, MLP; the time modulates the norms of the first and the last."""

    def __init__(self, config: FlowConfig, backends: Backends) -> None:
        super().__init__()
        channels, self.backends = config.model_channels, backends
        self.norm2 = LayerNorm32(channels, eps=1e-6)
        self.self_attn = SelfAttention(config, backends)
        self.cross_attn = (ProjectedCrossAttention if config.projected_channels else CrossAttention)(config, backends)
        self.mlp = FeedForward(channels, int(channels * config.mlp_ratio))
        if config.share_mod:
            self.modulation = nn.Parameter(nn.init.normal_(torch.empty(6 * channels), std=channels**-0.5))
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.share_mod = config.share_mod

    @property
    def image_attention(self) -> CrossAttention:
        """The attention to image tokens, which `cross_attn` is or contains."""
        return getattr(self.cross_attn, "cross_attn_block", self.cross_attn)

    def forward(
        self,
        stream: ResidualStream,
        modulation: Tensor,  # [B, 6 C] if shared, with this block's offset added; else the time embedding [B, C]
        image: tuple[Tensor, Tensor],  # this block's keys and values of the image
        lengths: tuple[int, ...],  # image tokens of each item
        layout: TokenLayout,
        projected: Tensor | None = None,  # [T, P]
    ) -> ResidualStream:
        mixed = modulation if self.share_mod else self.adaLN_modulation(modulation)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = mixed.chunk(6, dim=-1)
        norm, item = self.backends.norm, layout.item
        form = input_form(self.self_attn.to_qkv)
        x, h = add_norm_modulate(stream.x, stream.branch, scale_msa, shift_msa, item, form=form, backend=norm)
        out = self.self_attn(h, layout).to(x.dtype)  # under autocast it is narrower than the stream
        if set(lengths) == {1} and projected is None:
            branch = ResidualBranch(out, gate_msa, self.cross_attn.constant(image))
        else:
            form, norm2, branch = input_form(self.image_attention.to_q), self.norm2, ResidualBranch(out, gate_msa)
            x, h = add_norm_affine(x, branch, norm2.weight, norm2.bias, item, form=form, eps=norm2.eps, backend=norm)
            more = (projected,) if isinstance(self.cross_attn, ProjectedCrossAttention) else ()
            branch = ResidualBranch(self.cross_attn(h, image, lengths, layout, *more).to(x.dtype))
        form = input_form(self.mlp.mlp[0])
        x, h = add_norm_modulate(x, branch, scale_mlp, shift_mlp, item, form=form, backend=norm)
        return ResidualStream(x, ResidualBranch(self.mlp(h).to(x.dtype), gate_mlp))


@dataclass(frozen=True, eq=False)
class PreparedCondition:
    """Keys and values of a condition for every block. blocks: (keys, values) [S, H, d] each.  lengths: tokens of each
    item.  projected: [T, P], the same for all blocks; None: zeros, or a flow that takes none."""

    blocks: tuple[tuple[Tensor, Tensor], ...]
    lengths: tuple[int, ...]
    projected: Tensor | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns keys and values [S, H, d] of all blocks, and what is projected, as a flat tuple of contiguous
        tensors: as made, values are views that keep the keys before their norm alive."""
        found = (*(tensor for block in self.blocks for tensor in block), self.projected)
        return tuple(tensor.contiguous() for tensor in found if tensor is not None)

    @classmethod
    def of(cls, tensors: Sequence[Tensor], lengths: tuple[int, ...]) -> PreparedCondition:
        """The inverse of `tensors`: keys and values [S, H, d] in turn, and last, of an odd number, the projected."""
        pairs, projected = (tensors[:-1], tensors[-1]) if len(tensors) % 2 else (tensors, None)
        return cls(tuple(zip(pairs[::2], pairs[1::2], strict=True)), lengths, projected)


class FlowTransformer(nn.Module):
    """Base of the structure and latent flows, which differ only in the source of their tokens."""

    def __init__(self, config: FlowConfig, backends: Backends) -> None:
        super().__init__()
        self.config, self.backends, self.graphs = config, backends, GraphCache()
        channels = config.model_channels
        self.t_embedder = TimestepEmbedder(channels)
        if config.share_mod:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))
        self.input_layer = nn.Linear(config.in_channels, channels)
        self.blocks = nn.ModuleList(Block(config, backends) for _ in range(config.num_blocks))
        self.out_layer = nn.Linear(channels, config.out_channels)
        self.torso_dtype = config.torso_dtype
        cast_layers(self.blocks, (nn.Linear,), self.torso_dtype)

    def prepare(self, condition: PackedSequences) -> PreparedCondition:
        """Computes the image's keys and values for every block, once for all steps: 2 C numbers per token and block.
        condition: [S, cond_channels]; of a flow that projects, `ProjectedSequences`, or others for features of zero.
        Raises ValueError for projected features of another width, or that the flow does not take."""
        feats, projected = condition.feats.to(self.torso_dtype), None
        if isinstance(condition, ProjectedSequences):
            projected, width = condition.projected.to(self.torso_dtype), self.config.projected_channels
            if projected.shape[1] != width:
                wanted = f"{width} projected features a token" if width else "image tokens alone"
                raise ValueError(f"condition: expected {wanted}, got {projected.shape[1]} projected features")
        blocks = tuple(block.cross_attn.prepare(feats) for block in self.blocks)
        return PreparedCondition(blocks, condition.lengths, projected)

    def predict(
        self,
        x: Tensor,  # [T, in_channels] fp32
        t: Tensor,  # [B] fp32, 1000 * time
        condition: PackedSequences | PreparedCondition,
        layout: TokenLayout,
        position_embedding: Tensor | None,  # [T, C] fp32, with pe_mode "ape"
    ) -> Tensor:  # [T, out_channels] fp32
        """Returns the velocity [T, out_channels]. The blocks run in the torso's dtype, the first and last layers in
        fp32."""
        if len(condition.lengths) != len(layout.lengths):
            raise ValueError(
                f"condition: expected {len(layout.lengths)} items, one for each of x, got {len(condition.lengths)}"
            )
        h = self.input_layer(x)
        if position_embedding is not None:
            h = h + position_embedding
        h, modulations = h.to(self.torso_dtype), self._modulations(t)
        image = condition if isinstance(condition, PreparedCondition) else self.prepare(condition)
        if image.projected is not None and len(image.projected) != len(x):
            raise ValueError(f"condition: expected projected features of {len(x)} tokens, got {len(image.projected)}")
        stream, recompute = ResidualStream(h), self.config.use_checkpoint and torch.is_grad_enabled()
        for block, modulation, keys_values in zip(self.blocks, modulations, image.blocks, strict=True):
            arguments = (stream, modulation, keys_values, image.lengths, layout, image.projected)
            stream = checkpoint(block, *arguments, use_reentrant=False) if recompute else block(*arguments)
        h = stream.total(layout.item).to(x.dtype)
        return self.out_layer(F.layer_norm(h, h.shape[-1:], eps=1e-5))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlowTransformer:
        """Called by `.to()` and its like; clears CUDA graphs, which hold the old addresses of the weights."""
        self.graphs.clear()
        return super()._apply(fn, recurse)

    def _modulations(self, t: Tensor) -> Sequence[Tensor]:
        """Returns each block's input from the time t [B], in the torso's dtype; see `Block.forward`."""
        embedding = self.t_embedder(t)
        if not self.config.share_mod:
            return [embedding.to(self.torso_dtype)] * len(self.blocks)
        shared = self.adaLN_modulation(embedding).to(self.torso_dtype)
        # All blocks at once: separate launches would cost more than this small work.
        offsets = torch.stack([block.modulation for block in self.blocks])
        return (offsets[:, None] + shared).to(self.torso_dtype).unbind()

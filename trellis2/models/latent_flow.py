"""Flow model of a structured latent, shape or texture: a transformer over the occupied voxels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...o_voxel.core.checks import check_tensor
from ..checkpoint.config import FlowConfig
from ..ops.rope import rotary_angles
from ..sparse.tensor import PackedSequences, SparseTensor
from .layers import Backends, sinusoidal_positions
from .transformer import FlowTransformer, PreparedCondition, TokenLayout


class LatentFlow(FlowTransformer):
    """Velocity of a sparse latent. Published names: SLatFlowModel, ElasticSLatFlowModel."""

    def __init__(self, config: FlowConfig, backends: Backends | None = None) -> None:
        super().__init__(config, backends or Backends())

    def forward(
        self,
        x: SparseTensor,
        t: Tensor,
        condition: PackedSequences | PreparedCondition,
        concat: SparseTensor | None = None,
    ) -> SparseTensor:
        """Returns the velocity [T, out] fp32. x: [T, in] fp32 on B items' voxels.  t: [B] fp32, 1000 * time.  concat:
        further input channels on the same voxels, after those of x (the shape latent, for the texture model)."""
        coords = x.coords
        feats = x.feats if concat is None else torch.cat([x.feats, concat.feats], dim=1)
        check_tensor(feats, "x and concat", (len(coords), self.config.in_channels), torch.float32)
        check_tensor(t, "t", (coords.batch_size,), torch.float32)
        rotation = embedding = None
        if self.config.pe_mode == "rope":
            rotation = coords.derive(
                ("rope", self.config.head_channels, self.config.rope_freq), lambda: self._rotation(x)
            )
        else:
            embedding = sinusoidal_positions(coords.voxels, self.config.model_channels)
        layout = TokenLayout(coords.lengths, coords.item, rotation)
        return x.replace(self.predict(feats, t, condition, layout, embedding))

    def _rotation(self, x: SparseTensor) -> tuple[Tensor, Tensor]:
        """Returns (cos, sin) [T, d / 2] fp32 of the voxels' rotary angles."""
        angles = rotary_angles(x.coords.voxels, self.config.head_channels, self.config.rope_freq)
        return angles.cos(), angles.sin()

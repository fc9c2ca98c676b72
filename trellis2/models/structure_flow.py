"""Flow model of the sparse structure: a transformer over all voxels of a small dense grid."""

from __future__ import annotations

import torch
from torch import Tensor

from ...o_voxel.core.checks import check_tensor
from ..checkpoint.config import ConfigError, FlowConfig
from ..ops.rope import rotary_angles
from ..sparse.tensor import PackedSequences
from .layers import Backends, sinusoidal_positions
from .transformer import FlowTransformer, PreparedCondition, TokenLayout

# Cells a side of the grid, of which every one is a token; published are 16.
FINEST = 64


class StructureFlow(FlowTransformer):
    """Velocity of a dense latent. Published name: SparseStructureFlowModel.

    The position table is a persistent buffer, as published. It follows from the configuration, so a file may lack it;
    it is built with the default RoPE frequencies regardless of `rope_freq`, as in the reference.
    """

    def __init__(self, config: FlowConfig, backends: Backends | None = None) -> None:
        """Raises ConfigError for a grid finer than FINEST."""
        if config.resolution > FINEST:
            raise ConfigError(f"resolution: expected at most {FINEST} for a dense grid, got {config.resolution}")
        super().__init__(config, backends or Backends())
        for name, table in position_table(config).items():
            self.register_buffer(name, table)

    def derived_buffers(self) -> dict[str, Tensor]:
        """Returns the position table on the CPU, [R^3, ...], for a checkpoint that lacks it."""
        with torch.device("cpu"):
            return position_table(self.config)

    def forward(self, x: Tensor, t: Tensor, condition: PackedSequences | PreparedCondition) -> Tensor:
        """Returns the velocity [B, out, R, R, R] fp32. x: [B, in, R, R, R] fp32 (axes x, y, z).  t: [B] fp32, 1000 *
        time."""
        c, r = self.config.in_channels, self.config.resolution
        items = check_tensor(x, "x", (None, c, r, r, r), torch.float32).shape[0]
        check_tensor(t, "t", (items,), torch.float32)
        cells = r**3
        item = torch.arange(items, device=x.device).repeat_interleave(cells) if items != 1 else None
        rotation = embedding = None
        if self.config.pe_mode == "rope":
            phases = torch.view_as_real(self.rope_phases).repeat(items, 1, 1)
            rotation = (phases[..., 0], phases[..., 1])
        else:
            embedding = self.pos_emb.repeat(items, 1)
        layout = TokenLayout((cells,) * items, item, rotation)
        tokens = x.flatten(2).transpose(1, 2).flatten(0, 1)
        out = self.predict(tokens, t, condition, layout, embedding)
        return out.reshape(items, cells, -1).transpose(1, 2).reshape(items, -1, r, r, r)


def position_table(config: FlowConfig) -> dict[str, Tensor]:
    """Returns the persistent buffer of the grid's positions under its published name, rows in (x, y, z) order, z
    fastest: rope_phases [R^3, d / 2] complex64, or pos_emb [R^3, C] float32."""
    if torch.get_default_device().type == "meta":
        return _blank_table(config)
    axis = torch.arange(config.resolution)
    positions = torch.cartesian_prod(axis, axis, axis)
    if config.pe_mode == "ape":
        return {"pos_emb": sinusoidal_positions(positions, config.model_channels)}
    angles = rotary_angles(positions, config.head_channels)
    return {"rope_phases": torch.polar(torch.ones_like(angles), angles)}


def _blank_table(config: FlowConfig) -> dict[str, Tensor]:
    """As `position_table`, allocated only. Arithmetic on the meta device imports torch's compiler, which takes
    seconds."""
    cells = config.resolution**3
    if config.pe_mode == "ape":
        return {"pos_emb": torch.empty(cells, config.model_channels)}
    return {"rope_phases": torch.empty(cells, config.head_channels // 2, dtype=torch.complex64)}

"""Texture sampling with mip maps and wrap modes, one material a sample, from the packed tables of `tables`."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.backend import Backend, always, numba_probe, resolve_backend
from ...core.checks import check_tensor
from .reference import sample_bilinear
from .tables import PBR_SLOTS, TextureTable, pack_textures

BACKENDS = (Backend("numba", numba_probe), Backend("reference", always))


def texture_sample(table: TextureTable, material: Tensor, uv: Tensor, lod: Tensor, *, backend: str = "auto") -> Tensor:
    """Samples the textures of a table, [P, C] float32 in [0, 1].

    material: [P] int64, rows of the table; without a texture there, the values mean nothing.
    uv: [P, 2] float32, v up, any range; the wrap modes apply.
    lod: [P] float32 mip level from 0, the full image, to the material's `last_level`: bilinear on the two levels around
    it, blended linearly. Textures with the filter "nearest" take one texel.
    backend: "numba" (CPU), "reference" (plain torch, any device) or "auto".
    Deterministic. Raises ValueError for other shapes or dtypes.
    """
    n = len(check_tensor(material, "material", (None,), torch.int64))
    check_tensor(uv, "uv", (n, 2), torch.float32)
    check_tensor(lod, "lod", (n,), torch.float32)
    if resolve_backend(backend, BACKENDS, uv.device) == "numba":
        from .kernel_cpu import sample_cpu

        return sample_cpu(table, material, uv, lod)
    return sample_bilinear(table, material, uv, lod)


__all__ = ["BACKENDS", "PBR_SLOTS", "TextureTable", "pack_textures", "texture_sample"]

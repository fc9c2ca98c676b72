"""Light to colour: the PBR surface, tone mapping and sRGB. Colours and directions are [3, N], linear RGB."""

from __future__ import annotations

import torch
from torch import Tensor

from .light import StudioLight, irradiance, radiance
from .vectors import dot

DIELECTRIC = 0.04  # reflectance of a non-metal seen head on, glTF 2.0 appendix B
SMOOTHEST = 0.045


def tone_map(light: Tensor) -> Tensor:
    """Unbounded radiance [3, N] to [0, 1] by the Khronos PBR Neutral curve: base colours stay, highlights fold."""
    start, desaturation = 0.8 - DIELECTRIC, 0.15
    low = light.amin(dim=0)
    color = light - torch.where(low < 0.08, low - 6.25 * low * low, 0.04)
    peak = color.amax(dim=0)
    room = 1 - start
    folded = 1 - room * room / (peak.clamp(min=start) + room - start)
    whiteness = 1 - 1 / (desaturation * (peak - folded) + 1)
    bright = color * (folded / peak.clamp(min=1e-6))
    return torch.where(peak < start, color, bright + whiteness * (folded - bright))


def specular_scale_bias(roughness: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """GGX reflection under even light is f0 * scale + bias, each [N], for roughness and n.v [N].

    B. Karis' fit of the split-sum table (Physically Based Shading on Mobile, 2014).
    """
    r0, r1 = 1 - roughness, 0.0425 - 0.0275 * roughness
    share = torch.minimum(r0 * r0, torch.exp2(-9.28 * cosine)) * r0 + r1
    return -1.04 * share + 1.04 - 0.572 * roughness, 1.04 * share - 0.04 + 0.022 * roughness


def _reflected(f0: Tensor | float, scale: Tensor, bias: Tensor) -> Tensor:
    """Share of even light that GGX reflects, [N] or [3, N]. What is lost between its facets is given back, coloured.

    C. Fdez-Aguera, A Multiple-Scattering Microfacet Model for Real-Time Image-based Lighting, 2019; simplified.
    """
    return (f0 * scale + bias) * (1 + f0 * (1 / (scale + bias) - 1))


def shade_pbr(
    light: StudioLight, yaw_deg: float, normal: Tensor, towards_eye: Tensor, base: Tensor, metal_rough: Tensor
) -> Tensor:
    """Radiance [3, N] of surfaces in the studio: Lambert and GGX, metallic-roughness as glTF 2.0.

    normal, towards_eye: unit world directions [3, N], on the same side.  base: linear [3, N].
    metal_rough: [2, N] in [0, 1].
    """
    metallic, roughness = metal_rough[0], metal_rough[1].clamp(SMOOTHEST, 1)
    cosine = dot(normal, towards_eye).clamp(1e-4, 1)
    mirror = 2 * cosine * normal - towards_eye
    scale, bias = specular_scale_bias(roughness, cosine)
    plastic, metal = (_reflected(f0, scale, bias) for f0 in (DIELECTRIC, base))
    reflected = torch.lerp(plastic.expand_as(metal), metal, metallic)
    diffuse = base * (1 - metallic) * (1 - plastic)
    return diffuse * irradiance(light, yaw_deg, normal) + reflected * radiance(light, yaw_deg, mirror, roughness)

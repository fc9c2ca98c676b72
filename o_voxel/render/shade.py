"""PBR shading (Lambert and GGX) and tone mapping. Colours and directions are [3, N] float32; colours linear RGB."""

from __future__ import annotations

import torch
from torch import Tensor

from .light import StudioLight, irradiance, radiance
from .vectors import dot

DIELECTRIC = 0.04  # normal-incidence reflectance of dielectrics, glTF 2.0 appendix B
SMOOTHEST = 0.045


def tone_map(light: Tensor) -> Tensor:
    """Khronos PBR Neutral tone mapping of radiance [3, N] to [0, 1]: keeps base colours, compresses highlights."""
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
    """Returns split-sum scale and bias, each [N], for roughness [N] and n.v [N]: GGX albedo = f0 * scale + bias.

    B. Karis' fit of the split-sum table (Physically Based Shading on Mobile, 2014).
    """
    r0, r1 = 1 - roughness, 0.0425 - 0.0275 * roughness
    share = torch.minimum(r0 * r0, torch.exp2(-9.28 * cosine)) * r0 + r1
    return -1.04 * share + 1.04 - 0.572 * roughness, 1.04 * share - 0.04 + 0.022 * roughness


def _reflected(f0: Tensor | float, scale: Tensor, bias: Tensor) -> Tensor:
    """GGX directional albedo [N] or [3, N] with multiple-scattering compensation.

    C. Fdez-Aguera, A Multiple-Scattering Microfacet Model for Real-Time Image-based Lighting, 2019; simplified.
    """
    return (f0 * scale + bias) * (1 + f0 * (1 / (scale + bias) - 1))


def shade_pbr(
    light: StudioLight, yaw_deg: float, normal: Tensor, towards_eye: Tensor, base: Tensor, metal_rough: Tensor
) -> Tensor:
    """Computes radiance [3, N] of glTF 2.0 metallic-roughness surfaces under the studio lights: Lambert and GGX.

    normal, towards_eye: unit world directions [3, N], in the same hemisphere.  base: linear [3, N].
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

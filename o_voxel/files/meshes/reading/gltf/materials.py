"""Materials of a glTF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .....core.color import linear_to_srgb
from .....material import PLAIN, Material, Texture
from .....names import stored_name
from ..pieces import FactorSpace
from .source import Source
from .specular import as_metal, has_specular
from .textures import Mapped, TextureReader, mapped


@dataclass(eq=False)
class MaterialReader:
    """Reads materials, each once, in the order of their use, with shared images.

    factors: "srgb" encodes the linear factors like the texels, "stored" keeps them.
    """

    source: Source
    factors: FactorSpace
    materials: list[Material] = field(default_factory=list)
    _rows: dict[int | None, tuple[int, Mapped]] = field(default_factory=dict)
    _textures: TextureReader = field(init=False)

    def __post_init__(self) -> None:
        self._textures = TextureReader(self.source)

    def row(self, index: int | None) -> tuple[int, Mapped]:
        """Returns (row in `materials`, where its textures lie). index: in the file; None: plain white, no metal."""
        if index not in self._rows:
            material, place = (PLAIN, Mapped()) if index is None else self._named(index)
            self._rows[index] = len(self.materials), place
            self.materials.append(material)
        return self._rows[index]

    def _named(self, index: int) -> tuple[Material, Mapped]:
        """`_read`; errors say which material is malformed."""
        try:
            return self._read(index)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            text = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"material {index}: malformed: {text}") from error

    def _read(self, index: int) -> tuple[Material, Mapped]:
        stored = self.source.item("materials", index)
        if has_specular(stored):
            self.source.warn(f"{_name(stored, index)}: specular-glossiness is converted to metallic-roughness")
            stored, converted = as_metal(stored, self._textures)
        else:
            converted = {}
        inner = stored.get("pbrMetallicRoughness", {})
        color = np.asarray(inner.get("baseColorFactor", np.ones(4)), np.float64)
        light = np.asarray(stored.get("emissiveFactor", np.zeros(3)), np.float64)
        strength = stored.get("extensions", {}).get("KHR_materials_emissive_strength", {})
        light = light * strength.get("emissiveStrength", 1.0)
        if color.shape != (4,) or light.shape != (3,):
            raise ValueError(f"{_name(stored, index)}: expected four numbers of base colour and three of emission")
        if self.factors == "srgb":
            color[:3], light = linear_to_srgb(color[:3]), linear_to_srgb(light)
        references = {
            "base": inner.get("baseColorTexture"),
            "packed": inner.get("metallicRoughnessTexture"),
            "normal": stored.get("normalTexture"),
            "glow": stored.get("emissiveTexture"),
            "occlusion": stored.get("occlusionTexture"),
        }
        references, place = self._together(references, _name(stored, index))
        read, mode = self._textures.read, stored.get("alphaMode", "OPAQUE")
        textures = {
            "base_color_texture": read(references["base"], (0, 1, 2)),
            "metallic_texture": read(references["packed"], (2,)),
            "roughness_texture": read(references["packed"], (1,)),
            "emissive_texture": read(references["glow"], (0, 1, 2)),
            "alpha_texture": None if mode == "OPAQUE" else read(references["base"], (3,)),
            "normal_texture": read(references["normal"], (0, 1, 2)),
            "occlusion_texture": read(references["occlusion"], (0,)),
        }
        wrap = textures["base_color_texture"]
        for name, pixels in converted.items():
            if name != "alpha_texture" or mode != "OPAQUE":
                textures[name] = Texture(torch.from_numpy(pixels), *((wrap.wrap, wrap.filter) if wrap else ()))
        material = Material(
            base_color_factor=tuple(color[:3].clip(0, 1).tolist()),
            metallic_factor=_unit(inner.get("metallicFactor", 1.0)),
            roughness_factor=_unit(inner.get("roughnessFactor", 1.0)),
            emissive_factor=tuple(light.clip(0).tolist()),
            alpha_mode=mode,
            alpha_cutoff=float(stored.get("alphaCutoff", 0.5)),
            alpha_factor=_unit(color[3]),
            normal_scale=float((references["normal"] or {}).get("scale", 1.0)),
            double_sided=bool(stored.get("doubleSided", False)),
            name=stored_name(stored.get("name")),
            **textures,
        )
        return material, place

    def _together(
        self, references: dict[str, Mapping[str, Any] | None], name: str
    ) -> tuple[dict[str, Mapping[str, Any] | None], Mapped]:
        """Keeps the textures that lie as the first one does: a mesh here has one set of texture coordinates."""
        places = {kind: mapped(reference) for kind, reference in references.items() if reference is not None}
        if not places:
            return references, Mapped()
        place = next(iter(places.values()))
        apart = [kind for kind, other in places.items() if other != place]
        titles = {"packed": "metallic-roughness", "glow": "emission"}
        for kind in apart:
            title = titles.get(kind, kind)
            self.source.warn(f"{name}: its {title} texture has texture coordinates of its own, and is left out")
        return {kind: None if kind in apart else reference for kind, reference in references.items()}, place


def _name(stored: Mapping[str, Any], index: int) -> str:
    title = stored.get("name")
    return f"material {title!r:.80}" if title else f"material {index}"


def _unit(value: float) -> float:
    return float(np.clip(value, 0, 1))

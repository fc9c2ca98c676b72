"""What an OBJ's material library says beyond colour, shininess and one texture: the PBR extension, opacity, emission.

trimesh keeps these lines as lists of words by their keyword in lower case. Values are sRGB, as `obj.py` writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ....material import Texture

# Returns the RGBA [H, W, 4] uint8 of a texture by its name in the library, or None.
OpenImage = Callable[[str], np.ndarray | None]
# Fields of Material: keyword of the factor, keywords of the map, channels.
MAPS = {
    "roughness": ("pr", ("map_pr",), (0,)),
    "metallic": ("pm", ("map_pm",), (0,)),
    "emissive": ("ke", ("map_ke",), (0, 1, 2)),
    "normal": (None, ("norm", "map_kn"), (0, 1, 2)),
}


def pbr_fields(lines: Mapping[str, Any], open_image: OpenImage) -> dict[str, Any]:
    """Returns the fields of `Material` that a library's lines give: keyword to the words behind it."""
    fields: dict[str, Any] = {}
    for name, (factor, maps, channels) in MAPS.items():
        values = _numbers(lines.get(factor), 3 if name == "emissive" else 1)
        keyword = next((keyword for keyword in maps if keyword in lines), None)
        image = None if keyword is None else open_image(file_name(lines[keyword]))
        if image is not None:
            pixels = np.ascontiguousarray(image[..., list(channels)])
            fields[f"{name}_texture"] = Texture(torch.from_numpy(pixels))
            values = values or ((1.0, 1.0, 1.0) if name == "emissive" else (1.0,))
        if values and name == "emissive":
            fields["emissive_factor"] = tuple(max(value, 0.0) for value in values)
        elif values and name != "normal":
            fields[f"{name}_factor"] = min(max(values[0], 0.0), 1.0)
    if "normal_texture" in fields:
        words = [word.lower() for word in lines.get("norm", ())]
        scale = _numbers(words[words.index("-bm") + 1 :][:1], 1) if "-bm" in words else None
        fields["normal_scale"] = scale[0] if scale else 1.0
    return fields | _opacity(lines, open_image)


def file_name(words: Sequence[str]) -> str:
    """Returns a texture's name: what stands behind the options, such as -bm 0.5, and their numbers."""
    rest = list(words)
    while len(rest) > 1 and rest[0].startswith("-"):
        rest.pop(0)
        while len(rest) > 1 and (_numbers(rest[:1], 1) or rest[0] in ("on", "off")):
            rest.pop(0)
    return " ".join(rest)


def _opacity(lines: Mapping[str, Any], open_image: OpenImage) -> dict[str, Any]:
    """Alpha. 0 for a whole material is taken as an exporter's slip: nobody models what cannot be seen."""
    factor = _numbers(lines.get("d"), 1)
    image = open_image(file_name(lines["map_d"])) if "map_d" in lines else None
    fields: dict[str, Any] = {}
    if image is not None:
        # The alpha channel, where there is one.
        channel = 3 if int(image[..., 3].min()) < 255 else 0
        fields["alpha_texture"] = Texture(torch.from_numpy(np.ascontiguousarray(image[..., channel : channel + 1])))
    if factor and 0 < factor[0] < 1:
        fields["alpha_factor"] = factor[0]
    return {**fields, "alpha_mode": "BLEND"} if fields else {}


def _numbers(words: Sequence[str] | None, count: int) -> tuple[float, ...] | None:
    """The first `count` finite numbers of a line, or None."""
    try:
        values = tuple(float(word) for word in list(words or ())[:count])
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None

"""Pixal3D's checkpoints: names of their files in both published layouts, what differs from TRELLIS.2, and the
upsampler.

Their flows have TRELLIS.2's configuration but for the projected features (facts: TencentARC/Pixal3D, revision b0cb2e1;
Comfy-Org/Pixal3D). Decoders, statistics and samplers are the same. A source followed by ":multiview" is the checkpoint
for several views. The upsampler comes from Comfy-Org's image encoder, as the published one is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .config import PIXAL3D as PIPELINES

TENCENT, COMFY_PIXAL3D = "TencentARC/Pixal3D", "Comfy-Org/Pixal3D"
MULTIVIEW = ":multiview"
# In ComfyUI's loader, and for `decode`.
PUBLISHED = tuple(f"{name}{end}" for name in (COMFY_PIXAL3D, TENCENT) for end in ("", MULTIVIEW))
# Of Tencent's layout, for one picture and for several.
PIPELINE_FILES = ("pipeline.json", "pipeline_mv.json")
# With the weights of the upsampler, under "naf."; a folder may hold these alone in a file of its own.
ENCODER, NAF, OWN_NAF = "clip_vision/dino_v3_L_naf_fp32.safetensors", "naf.", "naf.safetensors"
# A flow that has this key takes projected features.
PROJECTS = "blocks.0.cross_attn.proj_linear.weight"
LARGEST_HEADER = 32 << 20


@dataclass(frozen=True)
class FileSet:
    """Comfy-Org's files of a checkpoint. official: their repository.  flows: in 16 and in 8 bits.  encoder: of images.
    projects: the flows take projected features."""

    official: str
    flows: tuple[str, str]
    encoder: str
    projects: bool = False

    def ordered(self, int8: bool) -> tuple[str, str]:
        """Returns the flows' files, the preferred one first."""
        return self.flows[::-1] if int8 else self.flows

    def as_found(self, find: Callable[[str], Path | None]) -> FileSet:
        """Returns this set, of Pixal3D if the flows that `find` finds say so, whatever they are named."""
        found = next((path for path in map(find, self.flows) if path is not None), None)
        if found is None or self.projects or not projects(found):
            return self
        return replace(self, official=COMFY_PIXAL3D, encoder=ENCODER, projects=True)


def _flows(name: str) -> tuple[str, str]:
    plain, small = (f"diffusion_models/{name}_{form}.safetensors" for form in ("bf16", "int8_convrot"))
    return plain, small


TRELLIS2_FILES = FileSet("Comfy-Org/TRELLIS.2", _flows("trellis_2"), "clip_vision/dino_v3_vit_l.safetensors")
PIXAL3D_FILES = FileSet(COMFY_PIXAL3D, _flows("pixal3d"), ENCODER, projects=True)
MULTIVIEW_FILES = FileSet(COMFY_PIXAL3D, _flows("pixal3d_multiview"), ENCODER, projects=True)


def split_source(source: str) -> tuple[str, bool]:
    """Returns (source, whether it is for several views), "owner/name:multiview" as ("owner/name", True)."""
    return source.removesuffix(MULTIVIEW), source.endswith(MULTIVIEW)


def file_set(source: str, multiview: bool) -> FileSet | None:
    """Returns the files of a repository of Comfy-Org's, or of a folder that holds their flows; None for others."""
    if source == COMFY_PIXAL3D:
        return MULTIVIEW_FILES if multiview else PIXAL3D_FILES
    if source == TRELLIS2_FILES.official:
        return TRELLIS2_FILES
    folder = Path(source).expanduser()
    kinds = (MULTIVIEW_FILES,) if multiview else (TRELLIS2_FILES, PIXAL3D_FILES, MULTIVIEW_FILES)
    return next((kind for kind in kinds if any((folder / name).exists() for name in kind.flows)), None)


def projects(path: Path) -> bool:
    """Whether a safetensors file holds a flow that takes projected features; its header alone is read."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if 2 <= length <= LARGEST_HEADER else {}
    except (OSError, ValueError):
        return False  # whoever reads the weights says what is wrong
    return isinstance(header, dict) and any(key.endswith(PROJECTS) for key in header)


def pipeline_of(published: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of Pixal3D's pipeline.json from TRELLIS.2's: its flows lack a texture at 512."""
    args = dict(published["args"])
    args["models"] = {role: path for role, path in args["models"].items() if role != "tex_slat_flow_model_512"}
    return {"name": PIPELINES[0], "args": args}


def description_of(published: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the {"name", "args"} of Pixal3D's network of a role from TRELLIS.2's; only flows differ.

    Latents' flows read patches and upsampled features, twice the channels of an image token; the structure's patches
    alone.
    """
    args = dict(published["args"])
    if "cond_channels" in args:
        args["image_attn_mode"] = "proj"
        if published["name"] != "SparseStructureFlowModel":
            args["proj_in_channels"] = 2 * args["cond_channels"]
    return {"name": published["name"], "args": args}

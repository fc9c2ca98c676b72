"""Nodes that save and load what the stages sampled: structure, shape and texture latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...trellis2.sampling.latent_files import KINDS, SUFFIX, read_latents, summary, write_latents
from ...trellis2.values import Latents, ShapeLatent, SparseStructure, TextureLatent
from .. import host
from ..sockets import SHAPE, STRUCTURE, TEXTURE, expect
from ..widgets import FILES_GROUP, filename_prefix
from .meshes import HIDDEN, loadable

SUFFIXES = (SUFFIX,)
# Folder of ComfyUI's output folder where they are saved, and listed from.
SAVED = "latents"


class SaveLatent:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Saves structure, shape and texture latents in ComfyUI's output folder, to go on from them later."
    FUNCTION = "save"
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("The saved file's name, relative to the output folder.",)
    OUTPUT_NODE = True
    SEARCH_ALIASES = ("save shape", "export latent", "keep shape", "safetensors", "cache")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        structure = "Optional: from Sample Structure. Needed only to sample other shapes on its voxels."
        shape = "Optional: from Sample Shape or Shape Cascade, to texture, cascade or decode it later."
        texture = "Optional: from Sample Texture for that shape, to decode both again."
        return {
            "required": {"filename_prefix": filename_prefix(f"{SAVED}/trellis2")},
            "optional": {
                "structure": (STRUCTURE, {"tooltip": structure}),
                "shape": (SHAPE, {"tooltip": f"{shape} About 140 bytes a token, 0.1 to 7 MB."}),
                "texture": (TEXTURE, {"tooltip": texture}),
            },
            "hidden": HIDDEN,
        }

    def save(
        self,
        filename_prefix: str,
        structure: SparseStructure | None = None,
        shape: ShapeLatent | None = None,
        texture: TextureLatent | None = None,
        prompt: Any = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        given = {"structure": (structure, STRUCTURE), "shape": (shape, SHAPE), "texture": (texture, TEXTURE)}
        parts = {
            name: host.at_rest(expect(value, socket)) for name, (value, socket) in given.items() if value is not None
        }
        if not parts:
            raise ValueError("Save Latent: expected a structure, a shape or a texture, got none; connect one of them")
        latents = Latents(**parts)
        path, subfolder = host.output_path(filename_prefix, SUFFIX[1:])
        write_latents(path, latents, host.metadata(prompt, extra_pnginfo), host.progress())
        lines = [path.name, *summary(latents)]
        host.show_text(lines)
        return {"ui": {"text": lines}, "result": ((f"{subfolder}/" if subfolder else "") + path.name,)}


class LoadLatent:
    CATEGORY = FILES_GROUP
    DESCRIPTION = "Loads latents of Save Latent, to texture, cascade or decode them again."
    FUNCTION = "load"
    RETURN_TYPES = (STRUCTURE, SHAPE, TEXTURE)
    RETURN_NAMES = KINDS
    OUTPUT_TOOLTIPS = (
        "The structure in the file, for Sample Shape.",
        "The shape latent in the file, for Sample Texture, Shape Cascade and Decode Mesh.",
        "The texture latent in the file, for Decode Mesh.",
    )
    SEARCH_ALIASES = ("load shape", "import latent", "open latent", "retexture", "safetensors")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        path = (
            f"A file of Save Latent: in output/{SAVED}, in ComfyUI's input folder, or in its subfolder 3d, where an "
            "upload goes. What it holds, and how it was made, is shown on the node."
        )
        files = [name for name in host.input_files(SUFFIXES) if name != host.NO_FILE]
        names = [*host.saved_files(SAVED, SUFFIXES), *files] or [host.NO_FILE]
        return {"required": {"file": (names, {"tooltip": path})}}

    @classmethod
    def VALIDATE_INPUTS(cls, file: Any = None, input_types: Mapping[str, Any] | None = None) -> bool | str:
        return loadable("file", file, SUFFIXES, input_types or {}, {"file": "STRING,COMBO"})

    @classmethod
    def IS_CHANGED(cls, file: Any = None, **others: Any) -> str:
        return host.changed(file)

    def load(self, file: str) -> dict[str, Any]:
        path = host.input_path(file)
        with host.opened(path, file):
            latents = read_latents(path, host.progress())
        lines = summary(latents)
        host.show_text(lines)
        missing = (
            f"{file}: it has no {{}}, only {', '.join(latents.kinds)}; disconnect that output or load another file"
        )
        parts = [getattr(latents, kind) or host.absent(missing.format(kind)) for kind in KINDS]
        return {"ui": {"text": lines}, "result": tuple(parts)}

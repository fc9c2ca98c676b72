"""The parsers that read what others made: each with the form of its files, and a call that reads one.

What a file may legitimately unfold to, such as a compressed picture, is bounded by a limit of its reader, which stands
here far below the default, so that inputs reach it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comfyui_trellis2.o_voxel.files.meshes.gltf.draco import decode_primitive
from comfyui_trellis2.o_voxel.files.meshes.read import load_textured_mesh
from comfyui_trellis2.o_voxel.files.meshes.reading import images
from comfyui_trellis2.o_voxel.files.meshes.reading.gltf.meshopt import decode_view
from comfyui_trellis2.o_voxel.files.voxels.npz import read_npz
from comfyui_trellis2.o_voxel.files.voxels.ply import read_ply
from comfyui_trellis2.o_voxel.files.voxels.vxz.read_write import read_vxz
from comfyui_trellis2.trellis2.checkpoint.config import parse_pipeline, parse_texturing
from comfyui_trellis2.trellis2.checkpoint.gguf.file import GgufFile
from comfyui_trellis2.trellis2.checkpoint.image_models import read_encoder_config
from comfyui_trellis2.trellis2.checkpoint.stored import read_json
from comfyui_trellis2.trellis2.checkpoint.weights import read_metadata, read_stored
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.models.dino import DinoVisionTransformer
from comfyui_trellis2.trellis2.sampling.latent_files import read_latents
from comfyui_trellis2.trellis2.training.recipe import load_recipe
from comfyui_trellis2.trellis2.training.tasks import TASKS

from .mutate import GLB, SAFETENSORS, VXZ, WHOLE, Envelope

CORPUS = Path(__file__).with_name("corpus")
# Limits of the readers, lowered.
PIXELS, UNFOLDED = 1 << 19, 2 << 20
# Between the files of one input: an OBJ, its library, its texture.
PARTS = b"\n#next file\n"


@dataclass(frozen=True)
class Target:
    """A parser.  read: reads the file at a path.  suffix: of the file.  envelope: where its JSON lies."""

    name: str
    read: Callable[[Path], object]
    suffix: str
    envelope: Envelope | None = None

    def seeds(self) -> list[bytes]:
        """Valid files, and inputs that once left the limits, in the order of their names."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]

    def run(self, content: bytes, folder: Path) -> None:
        """Reads an input. Raises what the parser does."""
        path = folder / f"input{self.suffix}"
        parts = content.split(PARTS) if self.suffix == ".obj" else [content]
        for part, name in zip(parts, (path.name, "input.mtl", "input.png"), strict=False):
            (folder / name).write_bytes(part)
        self.read(path)


class OutOfMemory(Exception):
    """A reader ran out of memory, and went on."""


def _mesh(path: Path) -> None:
    def warn(line: str) -> None:
        if "memory" in line.lower() or "allocate" in line:
            raise OutOfMemory(line)

    load_textured_mesh(path, max_bytes=UNFOLDED, on_warning=warn)


def _picture(path: Path) -> None:
    images.decoded(path.read_bytes(), PIXELS)


def _meshopt(path: Path) -> None:
    """The JSON of the extension in one line, then the stream."""
    head, _, stream = path.read_bytes().partition(b"\n")
    packed = json.loads(head)
    if isinstance(packed, dict) and {"count", "byteStride", "mode"} <= packed.keys():
        decode_view(np.frombuffer(stream, np.uint8), packed, UNFOLDED)


def _draco(path: Path) -> None:
    decode_primitive(np.frombuffer(path.read_bytes(), np.uint8), {"POSITION": 0})


def _safetensors(path: Path) -> None:
    for tensor in read_stored(path).values():
        tensor.read(torch.float32)
    read_metadata(path)


def _gguf(path: Path) -> None:
    for tensor in GgufFile.open(path).tensors.values():
        tensor.read(torch.float16)


def _network(path: Path) -> None:
    build_model(read_json(path), path.name)


def _pipeline(path: Path) -> None:
    data = read_json(path)
    texturing = isinstance(data, dict) and "Texturing" in str(data.get("name"))
    (parse_texturing if texturing else parse_pipeline)(data, path.name)


def _encoder(path: Path) -> None:
    DinoVisionTransformer(read_encoder_config(path), device="meta", dtype=torch.float32)


TARGETS = {
    target.name: target
    for target in (
        Target("picture", _picture, ".png"),
        Target("glb", _mesh, ".glb", GLB),
        Target("gltf", _mesh, ".gltf", WHOLE),
        Target("meshopt", _meshopt, ".bin"),
        Target("draco", _draco, ".drc"),
        Target("obj", _mesh, ".obj"),
        Target("ply", _mesh, ".ply"),
        Target("stl", _mesh, ".stl"),
        Target("vxz", lambda path: read_vxz(path, UNFOLDED, threads=1), ".vxz", VXZ),
        Target("npz", lambda path: read_npz(path, UNFOLDED), ".npz"),
        Target("voxel_ply", read_ply, ".ply"),
        Target("latents", read_latents, ".safetensors", SAFETENSORS),
        Target("safetensors", _safetensors, ".safetensors", SAFETENSORS),
        Target("gguf", _gguf, ".gguf"),
        Target("network", _network, ".json", WHOLE),
        Target("pipeline", _pipeline, ".json", WHOLE),
        Target("encoder", _encoder, ".json", WHOLE),
        Target("recipe", lambda path: load_recipe(path, TASKS), ".json", WHOLE),
    )
}


def quiet() -> None:
    """Keeps the log lines of readers out of what a fuzzer prints."""
    logging.disable(logging.CRITICAL)

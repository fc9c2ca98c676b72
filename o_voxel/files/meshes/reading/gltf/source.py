"""The parts of a glTF file: its JSON, buffers, buffer views and images; what it requires of a reader."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np

from .....core.atomic_io import MAX_BYTES
from ...gltf.document import BINARY_CHUNK, GLB_MAGIC, JSON_CHUNK
from ..companions import companion
from .meshopt import MESHOPT_NAMES, decode_view

Warn = Callable[[str], None]

# Extensions that this reader follows; see docs of each module.
FOLLOWED = frozenset(
    {
        *MESHOPT_NAMES,
        "EXT_mesh_gpu_instancing",
        "EXT_texture_avif",
        "EXT_texture_webp",
        "KHR_draco_mesh_compression",
        "KHR_materials_emissive_strength",
        "KHR_materials_pbrSpecularGlossiness",
        "KHR_mesh_quantization",
        "KHR_node_visibility",
        "KHR_texture_transform",
    }
)
# Extensions that add to a material, or to the scene around it: without them the shape and the base material are right.
LEFT_OUT = frozenset(
    {
        "KHR_animation_pointer",
        "KHR_lights_punctual",
        "KHR_materials_anisotropy",
        "KHR_materials_clearcoat",
        "KHR_materials_diffuse_transmission",
        "KHR_materials_dispersion",
        "KHR_materials_ior",
        "KHR_materials_iridescence",
        "KHR_materials_sheen",
        "KHR_materials_specular",
        "KHR_materials_transmission",
        "KHR_materials_unlit",
        "KHR_materials_variants",
        "KHR_materials_volume",
        "KHR_xmp_json_ld",
    }
)


@dataclass(eq=False)
class Source:
    """A glTF file.  json: its document.  chunk: the GLB's binary chunk, or None.  warn: called with one line each.
    max_bytes: of all that it unfolds to; parts that are used many times count as often."""

    path: Path
    json: dict[str, Any]
    chunk: bytes | None
    warn: Warn
    max_bytes: int = MAX_BYTES
    _claimed: int = 0
    _buffers: dict[int, np.ndarray] = field(default_factory=dict)
    _views: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """Bytes that may still be claimed."""
        return self.max_bytes - self._claimed

    def claim(self, count: int, what: str) -> None:
        """Counts bytes that are about to be allocated. Raises ValueError if the file then unfolds to more than
        max_bytes."""
        if count > self.left:
            raise ValueError(f"{what}: the file unfolds to more than max_bytes, {self.max_bytes:,}")
        self._claimed += count

    def item(self, kind: str, index: object) -> dict[str, Any]:
        """Returns row `index` of the top-level list `kind`. Raises ValueError if there is none."""
        rows = self.json.get(kind, [])
        if not isinstance(rows, list) or not isinstance(index, int) or isinstance(index, bool):
            raise ValueError(f"{kind}: expected a list and an integer index, got index {index!r:.80}")
        if not 0 <= index < len(rows):
            raise ValueError(f"{kind}: expected an index from 0 to {len(rows) - 1}, got {index}")
        if not isinstance(rows[index], dict):
            raise ValueError(f"{kind}: expected an object at index {index}, got {rows[index]!r:.80}")
        return rows[index]

    def view(self, index: int) -> np.ndarray:
        """Returns the bytes of a buffer view, uint8 [byteLength]; compressed ones (meshopt) are decoded."""
        if index not in self._views:
            view = self.item("bufferViews", index)
            extensions = view.get("extensions", {})
            name = next((name for name in MESHOPT_NAMES if name in extensions), None)
            if name is None:
                self._views[index] = self._slice(view, f"bufferView {index}")
            else:
                packed = extensions[name]
                data = self._slice(packed, f"bufferView {index}, {name}")
                self._views[index] = decode_view(data, packed, self.left)
                self.claim(self._views[index].nbytes, f"bufferView {index}")
        return self._views[index]

    def image(self, index: int) -> bytes:
        """Returns the file content of an image. Raises OSError or ValueError if it is not there."""
        image = self.item("images", index)
        if "bufferView" in image:
            return self.view(image["bufferView"]).tobytes()
        if "uri" not in image:
            raise ValueError("expected a uri or a bufferView")
        return self._fetch(image["uri"])

    def _slice(self, view: dict[str, Any], place: str) -> np.ndarray:
        buffer = self._buffer(view["buffer"])
        start, length = view.get("byteOffset", 0), view["byteLength"]
        if type(start) is not int or type(length) is not int:
            raise ValueError(f"{place}: expected whole bytes, got {start!r:.40} and {length!r:.40}")
        if min(start, length) < 0 or start + length > len(buffer):
            raise ValueError(f"{place}: expected bytes {start} to {start + length} of a buffer with {len(buffer)}")
        return buffer[start : start + length]

    def _buffer(self, index: int) -> np.ndarray:
        if index not in self._buffers:
            buffer = self.item("buffers", index)
            if "uri" in buffer:
                content = self._fetch(buffer["uri"])
            elif index == 0 and self.chunk is not None:
                content = self.chunk
            else:
                raise ValueError(f"buffer {index}: expected a uri or the file's binary chunk, got neither")
            self._buffers[index] = np.frombuffer(content, np.uint8)
        return self._buffers[index]

    def _fetch(self, uri: object) -> bytes:
        """Returns what a URI names: its own data, or a file in the folder of this one."""
        if not isinstance(uri, str):
            raise ValueError(f"uri: expected text, got {uri!r:.80}")
        if uri[:5].lower() == "data:":
            head, comma, data = uri.partition(",")
            if not comma:
                raise ValueError(f"expected a comma in the data URI {uri[:40]!r}")
            if not head.lower().endswith(";base64"):
                return unquote_to_bytes(data)
            try:
                return base64.b64decode(unquote_to_bytes(data), validate=False)
            except binascii.Error as error:
                raise ValueError(f"expected base64 in the data URI {uri[:40]!r}: {error}") from error
        found = companion(self.path, uri)
        if found is None:
            raise ValueError(f"{uri:.200}: expected a file in the folder of {self.path.name}; none is there")
        if found.stat().st_size > MAX_BYTES:
            raise ValueError(f"{uri:.200}: expected at most {MAX_BYTES:,} bytes, got {found.stat().st_size:,}")
        return found.read_bytes()


def open_gltf(path: Path, warn: Warn, max_bytes: int = MAX_BYTES) -> Source:
    """Opens a .glb or .gltf by its first bytes. warn: called with one line for each thing that is left out.
    max_bytes: see `Source`.

    Raises OSError; ValueError for another version than 2, malformed content, or a required extension that is not
    followed.
    """
    content = path.read_bytes()
    if content[:4] == GLB_MAGIC.to_bytes(4, "little") or path.suffix.lower() == ".glb":
        text, chunk = _split_glb(content)
    else:
        text, chunk = content, None
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, got {type(document).__name__}")
    asset = document.get("asset", {})
    version = str(asset.get("version", "none")) if isinstance(asset, dict) else "none"
    if version.split(".")[0] != "2":
        raise ValueError(f"expected glTF version 2.0, got {version}; export it again as glTF 2.0")
    required = document.get("extensionsRequired", [])
    unknown = sorted({str(name) for name in required} - FOLLOWED - LEFT_OUT)
    if unknown:
        raise ValueError(f"it requires {', '.join(unknown)}, which is not read; export it without")
    for name in sorted(set(required) & LEFT_OUT):
        warn(f"{name} is left out")
    return Source(path, document, chunk, warn, max_bytes)


def _split_glb(content: bytes) -> tuple[bytes, bytes | None]:
    """Splits a GLB file into (JSON text, binary chunk or None)."""
    if len(content) < 20:
        raise ValueError(f"expected a header of 20 bytes, got {len(content)}")
    magic, version, length, json_length, kind = struct.unpack_from("<5I", content)
    if magic != GLB_MAGIC:
        raise ValueError(f"expected a file that begins with 'glTF', got {content[:4]!r}")
    if version != 2:
        raise ValueError(f"expected glTF version 2.0, got {version}; export it again as glTF 2.0")
    if kind != JSON_CHUNK:
        raise ValueError(f"expected a JSON chunk first, got type {kind:#x}")
    if length > len(content) or 20 + json_length > length:
        raise ValueError(f"expected {max(length, 20 + json_length)} bytes, got {len(content)}")
    position = 20 + json_length
    text, chunk = content[20:position], None
    if position + 8 <= length:
        size, kind = struct.unpack_from("<2I", content, position)
        if kind == BINARY_CHUNK:
            if position + 8 + size > length:
                raise ValueError(f"expected a binary chunk of {size} bytes, got {length - position - 8}")
            chunk = content[position + 8 : position + 8 + size]
    return text, chunk

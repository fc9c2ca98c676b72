"""Latents as files, to decode, texture again or cascade later: a safetensors file that any reader of the format opens.

Tensors, for each of structure, shape and texture that the file holds, of the N voxels of all objects in order:
KIND.voxels [N, 3] int32 (x, y, z), and but for the structure KIND.feats [N, C] float32, not normalised; of an encoded
shape also shape.surface [M, 3] int32, the voxels that its decoder follows. Metadata:
"format", "version", and "KIND": JSON with what the tensors do not say (see `_described`). Further metadata is the
caller's, such as ComfyUI's graph. The header has its keys in order, so equal content is equal bytes; the safetensors
package writes its metadata in any order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ...o_voxel.core.atomic_io import BLOCK, FilePath, atomic_write, naming
from ...o_voxel.core.progress import Progress, silent
from ..capabilities import LATENT_STRIDE
from ..checkpoint.config import SamplerParams
from ..sparse import CoordSet, SparseTensor
from ..values import Latent, Latents, Made, ShapeLatent, SparseStructure, TextureLatent
from .checks import check_same_voxels
from .noise import NoiseHistory

FORMAT, VERSION = "trellis2-latents", "1"
SUFFIX = ".safetensors"
KINDS = ("structure", "shape", "texture")
LATENTS = {"shape": ShapeLatent, "texture": TextureLatent}
# Limits of a file that is read: the header holds a graph at most; voxels a side of a surface; channels; objects.
MAX_HEADER, FINEST, MAX_CHANNELS, MAX_OBJECTS = 32 << 20, 4096, 1024, 4096
# The noise that earlier stages drew is drawn again by later ones: how many shapes, and numbers in one.
MAX_SHAPES, MAX_NUMBERS = 64, 1 << 30
DTYPES = {"I32": np.dtype("<i4"), "F32": np.dtype("<f4")}


def write_latents(
    path: FilePath, latents: Latents, extras: Mapping[str, str] | None = None, progress: Progress | None = None
) -> int:
    """Writes a file whole or not at all, and returns its bytes. extras: further metadata, such as "workflow".

    Raises ValueError for a texture of another shape's voxels, or extras with a key of the format; OSError as `open`.
    """
    if latents.shape is not None and latents.texture is not None:
        check_same_voxels(latents.shape, latents.texture)
    reserved = {"format": FORMAT, "version": VERSION}
    tensors: dict[str, np.ndarray] = {}
    for kind in latents.kinds:
        value = getattr(latents, kind)
        reserved[kind] = json.dumps(_described(value), sort_keys=True)
        for name, tensor in _tensors(value).items():
            array = tensor.detach().cpu().contiguous().numpy()
            tensors[f"{kind}.{name}"] = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if reserved.keys() & (extras or {}).keys():
        raise ValueError(f"extras: expected other keys than {sorted(reserved)}, got {sorted(extras or {})}")
    entries, offset = {}, 0
    for name, array in tensors.items():
        kind = next(key for key, dtype in DTYPES.items() if dtype == array.dtype)
        entries[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps({"__metadata__": reserved | dict(extras or {}), **entries}, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    report, written = progress or silent, 0
    with atomic_write(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            content = array.tobytes()
            for start in range(0, len(content), BLOCK):
                written += file.write(content[start : start + BLOCK])
                report(written / offset)
    return 8 + len(text) + offset


def read_latents(path: FilePath, progress: Progress | None = None) -> Latents:
    """Reads a file of `write_latents`, on the CPU. Whatever it says of sizes is checked before anything is allocated.

    Raises ValueError naming the file for one that is no such file, is damaged or has values out of range; OSError as
    `open`.
    """
    report = progress or silent
    with open(path, "rb") as file, naming(Path(path).name):
        metadata, entries, start = _header(file, Path(path).stat().st_size)
        described = {kind: _object(metadata[kind], kind) for kind in KINDS if kind in metadata}
        expected = {f"{kind}.{name}" for kind in described for name in ("voxels", "feats")} - {"structure.feats"}
        expected |= {"shape.surface"} & entries.keys() if "shape" in described else set()
        if not described or entries.keys() != expected:
            raise ValueError(f"expected the tensors {sorted(expected)} of {list(described)}, got {sorted(entries)}")
        tensors = {}
        for done, (name, entry) in enumerate(entries.items()):
            tensors[name] = _tensor(file, name, entry, start)
            report((done + 1) / len(entries))
        made: dict[str, Any] = {}
        for kind, about in described.items():
            with naming(kind):
                made[kind] = _value(kind, tensors, about)
        latents = Latents(**made)
        if latents.shape is not None and latents.texture is not None:
            check_same_voxels(latents.shape, latents.texture)
        return latents


def summary(latents: Latents) -> list[str]:
    """What a file or a node holds, in lines for the user: sizes, and how each stage made it as far as that is known."""
    lines = []
    for kind in latents.kinds:
        value = getattr(latents, kind)
        lengths = [len(item) for item in value.items] if kind == "structure" else value.slat.coords.lengths
        sides = {value.resolution} if kind == "structure" else set(value.resolutions)
        what = "voxels" if kind == "structure" else "tokens"
        counts = ", ".join(f"{n:,}" for n in lengths[:8]) + (" …" if len(lengths) > 8 else "")
        lines.append(f"{kind} at {', '.join(map(str, sorted(sides)))}: {counts} {what}")
    last = max((getattr(latents, kind).made for kind in latents.kinds), key=len)
    lines += [
        f"{made.stage}: {made.model or 'unknown model'}, seed {made.seed}, {made.sampler.steps} steps, "
        f"{made.sampler.integrator}, guidance {made.sampler.guidance_strength:g}"
        for made in last
    ]
    return lines


def _tensors(value: SparseStructure | Latent) -> dict[str, Tensor]:
    if isinstance(value, SparseStructure):
        return {"voxels": torch.cat(value.items).to(torch.int32)}
    found = getattr(value, "surface", None)
    surface = {} if found is None else {"surface": found.voxels}
    return {"voxels": value.slat.coords.voxels, "feats": value.slat.feats.float(), **surface}


def _described(value: SparseStructure | Latent) -> dict[str, Any]:
    """What the tensors do not say. resolutions: of each object; those of the surface, of a structure its grid's."""
    structure, surface = isinstance(value, SparseStructure), getattr(value, "surface", None)
    return {
        "lengths": [len(item) for item in value.items] if structure else list(value.slat.coords.lengths),
        "resolutions": [value.resolution] * len(value.items) if structure else list(value.resolutions),
        "noise_history": value.noise_history,
        "space": "" if structure else value.space,
        **({"y_up": True} if value.y_up else {}),
        **({} if surface is None else {"surface_lengths": list(surface.lengths)}),
        "made": [asdict(stage) for stage in value.made],
    }


def _header(file: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, Any], int]:
    """(metadata, {tensor: entry}, where the tensors begin); every byte after that belongs to one tensor."""
    length = int.from_bytes(file.read(8), "little")
    if size < 10 or not 2 <= length <= min(size - 8, MAX_HEADER):
        raise ValueError("expected a safetensors file of latents, got another or a damaged one")
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__")
        found = metadata["format"], metadata["version"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        found = None, None
    if found[0] != FORMAT:
        raise ValueError("expected a file of Save Latent, got another safetensors file, such as a model")
    if found[1] != VERSION:
        raise ValueError(f"expected version {VERSION} of the format, got {found[1]}; update the pack")
    offset = 0
    order = sorted(header, key=lambda name: _integers(_field(header[name], "data_offsets"), "data_offsets"))
    for name in order:
        with naming(name):
            shape = _integers(_field(header[name], "shape"), "shape")
            wanted = "F32" if name.endswith(".feats") else "I32"
            columns = 3 if wanted == "I32" else shape[-1] if shape else 0
            fits = len(shape) == 2 and shape[0] >= 1 and 1 <= shape[1] <= MAX_CHANNELS and shape[1] == columns
            if not fits or _field(header[name], "dtype") != wanted:
                raise ValueError(f"expected [N, {'3' if wanted == 'I32' else 'C'}] {wanted}, got {header[name]}")
            end = offset + 4 * math.prod(shape)
            if _integers(header[name]["data_offsets"], "data_offsets") != [offset, end]:
                raise ValueError(f"expected bytes {offset} to {end}, got {header[name]['data_offsets']}")
            offset = end
    if 8 + length + offset != size:
        raise ValueError(f"expected {8 + length + offset:,} bytes, got {size:,}; the file is damaged")
    return metadata, {name: header[name] for name in order}, 8 + length


def _tensor(file: BinaryIO, name: str, entry: Mapping[str, Any], start: int) -> Tensor:
    file.seek(start + entry["data_offsets"][0])
    dtype = DTYPES[entry["dtype"]]
    array = np.fromfile(file, dtype, math.prod(entry["shape"])).reshape(entry["shape"])
    tensor = torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers")
    return tensor


def _value(kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> SparseStructure | Latent:
    voxels = tensors[f"{kind}.voxels"]
    lengths, resolutions = (_integers(_field(about, key), key) for key in ("lengths", "resolutions"))
    if not 1 <= len(lengths) <= MAX_OBJECTS or min(lengths) < 1 or sum(lengths) != len(voxels):
        raise ValueError(f"lengths: expected those of {len(voxels)} voxels, none empty, got {lengths[:8]}")
    scale = 1 if kind == "structure" else LATENT_STRIDE
    if len(resolutions) != len(lengths) or any(r % scale or not scale <= r <= FINEST for r in resolutions):
        raise ValueError(
            f"resolutions: expected {len(lengths)} multiples of {scale} to {FINEST}, got {resolutions[:8]}"
        )
    items = _items(voxels, lengths, [resolution // scale for resolution in resolutions])
    histories = tuple(_history(one) for one in _list(_field(about, "noise_history"), len(lengths), "noise_history"))
    made = tuple(_made(one) for one in _list(_field(about, "made"), None, "made"))
    y_up = about.get("y_up", False)
    if not isinstance(y_up, bool):
        raise ValueError(f"y_up: expected true or false, got {str(y_up)[:80]}")
    if kind == "structure":
        if resolutions[0] not in (32, 64) or len(set(resolutions)) > 1:
            raise ValueError(f"resolutions: expected 32 or 64 for all objects, got {resolutions[:8]}")
        return SparseStructure(tuple(items), resolutions[0], histories, made=made, y_up=y_up)
    feats, space = tensors[f"{kind}.feats"], str(_field(about, "space"))
    slat = SparseTensor(feats, CoordSet.from_items(items))
    latent = LATENTS[kind](slat, tuple(resolutions), histories, space, made=made, y_up=y_up)
    if f"{kind}.surface" not in tensors:
        return latent
    rows, lengths = tensors[f"{kind}.surface"], _integers(_field(about, "surface_lengths"), "surface_lengths")
    if len(lengths) != len(resolutions) or min(lengths) < 1 or sum(lengths) != len(rows):
        raise ValueError(f"surface_lengths: expected those of {len(rows)} voxels, got {lengths[:8]}")
    return replace(latent, surface=CoordSet.from_items(_items(rows, lengths, resolutions)))


def _items(voxels: Tensor, lengths: Sequence[int], sides: Sequence[int]) -> tuple[Tensor, ...]:
    """The voxels [N_i, 3] of each object, each once and on its grid of so many a side."""
    items = voxels.split(list(lengths))
    for item, side in zip(items, sides, strict=True):
        if item.min() < 0 or item.max() >= side:
            raise ValueError(f"voxels: expected 0 to {side - 1}, got {item.min()} to {item.max()}")
        x, y, z = item.long().unbind(1)
        if len(torch.unique((x * side + y) * side + z)) != len(item):  # far faster than by rows
            raise ValueError("voxels: expected each once, got one twice")
    return items


def _history(data: object) -> NoiseHistory:
    shapes = tuple(tuple(_integers(shape, "noise_history")) for shape in _list(data, None, "noise_history"))
    if len(shapes) > MAX_SHAPES or any(min(s, default=0) < 1 or math.prod(s) > MAX_NUMBERS for s in shapes):
        raise ValueError(f"noise_history: expected shapes of noise, got {shapes[:4]}")
    return shapes


def _made(data: object) -> Made:
    try:
        params = {key: tuple(v) if isinstance(v, list) else v for key, v in data["sampler"].items()}
        return Made(str(data["stage"]), int(data["seed"]), SamplerParams(**params), str(data["model"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"made: expected stage, seed, sampler and model, got {str(data)[:120]}") from error


def _object(text: object, name: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise ValueError(f"{name}: expected a JSON object")
    return data


def _field(data: object, name: str) -> Any:
    if not isinstance(data, dict) or name not in data:
        raise ValueError(f"expected the key {name!r}")
    return data[name]


def _list(data: object, length: int | None, name: str) -> list[Any]:
    if not isinstance(data, list) or (length is not None and len(data) != length):
        raise ValueError(f"{name}: expected a list{'' if length is None else f' of {length}'}")
    return data


def _integers(data: object, name: str) -> list[int]:
    numbers = _list(data, None, name)
    if any(type(number) is not int or not 0 <= number < 1 << 62 for number in numbers):
        raise ValueError(f"{name}: expected whole numbers, got {str(data)[:80]}")
    return numbers

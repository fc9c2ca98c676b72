"""Writes GGUF files, and quantises weights into their blocks, plainly: scales by the largest and least of a group.

Written from the formats' description, apart from the reader; `test_gguf.py` has the `gguf` package read it too.
"""

import struct
from pathlib import Path

import numpy as np

CODES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ4_XS": 23,
    "BF16": 30,
    "MXFP4": 39,
    "NVFP4": 40,
}
# Weights of a block, its bytes, and where its float16 scales begin.
BLOCKS = {
    "Q4_0": (32, 18, (0,)),
    "Q4_1": (32, 20, (0, 2)),
    "Q5_0": (32, 22, (0,)),
    "Q5_1": (32, 24, (0, 2)),
    "Q8_0": (32, 34, (0,)),
    "Q2_K": (256, 84, (80, 82)),
    "Q3_K": (256, 110, (108,)),
    "Q4_K": (256, 144, (0, 2)),
    "Q5_K": (256, 176, (0, 2)),
    "Q6_K": (256, 210, (208,)),
}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        return struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value)


def write_gguf(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes | np.ndarray]], version=3, **metadata):
    """tensors: by name (format, shape, outermost dimension first, bytes). metadata: __ in a key stands for a dot."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key.replace("__", ".")) + entry(value) for key, value in metadata.items())
    alignment, offset = metadata.get("general__alignment", 32), 0
    for name, (form, shape, data) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        head += struct.pack("<IQ", CODES[form], offset)
        offset += -(-memoryview(data).nbytes // alignment) * alignment
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % alignment))
        for _, _, data in tensors.values():
            file.write(data)
            file.write(bytes(-memoryview(data).nbytes % alignment))


def random_blocks(form: str, count: int, generator: np.random.Generator) -> np.ndarray:
    """[count, bytes] uint8: any bits, but scales that are finite."""
    _, length, halves = BLOCKS[form]
    blocks = generator.integers(0, 256, (count, length), dtype=np.uint8)
    for start in halves:
        infinite = (blocks[:, start + 1] & 0x7C) == 0x7C
        blocks[infinite, start + 1] ^= 0x40
    return blocks


def quantize(weights: np.ndarray, form: str) -> bytes:
    """Rows [R, K] float32 in the blocks of Q8_0, Q4_K, Q5_K or Q6_K."""
    return {"Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}[form](weights.astype(np.float32)).tobytes()


def _halves(*values: np.ndarray) -> list[np.ndarray]:
    return [value.astype(np.float16).reshape(-1, 1).view(np.uint8) for value in values]


def _over(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(values, by, out=np.zeros(np.broadcast_shapes(values.shape, by.shape), np.float32), where=by != 0)


def _q8_0(weights: np.ndarray) -> np.ndarray:
    blocks = weights.reshape(-1, 32)
    d = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    q = np.rint(_over(blocks, d.astype(np.float32))).clip(-127, 127).astype(np.int8)
    return np.concatenate([d.view(np.uint8), q.view(np.uint8)], axis=1)


def _affine(weights: np.ndarray, top: int) -> tuple[list[np.ndarray], np.ndarray]:
    """([d, dmin and 12 bytes of scales], integers [N, 8, 32])."""
    groups = weights.reshape(-1, 8, 32)
    minimum = np.maximum(-groups.min(2), 0)
    scale = (groups.max(2) + minimum) / top
    d, dmin = ((x.max(1, keepdims=True) / 63).astype(np.float16).astype(np.float32) for x in (scale, minimum))
    s, m = (np.rint(_over(x, by)).clip(0, 63).astype(np.uint8) for x, by in ((scale, d), (minimum, dmin)))
    q = np.rint(_over(groups + (dmin * m)[:, :, None], (d * s)[:, :, None])).clip(0, top).astype(np.uint8)
    high = [x[:, :4] | (x[:, 4:] >> 4) << 6 for x in (s, m)]
    return [*_halves(d, dmin), *high, (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], q


def _nibbles(q: np.ndarray, width: int) -> np.ndarray:
    pairs = (q & 15).reshape(len(q), -1, 2, width)
    return (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(len(q), -1)


def _q4_k(weights: np.ndarray) -> np.ndarray:
    head, q = _affine(weights, 15)
    return np.concatenate([*head, _nibbles(q, 32)], axis=1)


def _q5_k(weights: np.ndarray) -> np.ndarray:
    head, q = _affine(weights, 31)
    fifth = sum(((q[:, g] >> 4) << g for g in range(8)), np.zeros_like(q[:, 0]))
    return np.concatenate([*head, fifth, _nibbles(q, 32)], axis=1)


def _q6_k(weights: np.ndarray) -> np.ndarray:
    groups = weights.reshape(-1, 16, 16)
    scale = np.abs(groups).max(2) / 31
    d = (scale.max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    s = np.rint(_over(scale, d)).astype(np.int8)
    q = (np.rint(_over(groups, (d * s)[:, :, None])).clip(-32, 31) + 32).astype(np.uint8).reshape(-1, 256)
    quarters = (q >> 4).reshape(-1, 2, 4, 32)
    high = sum((quarters[:, :, k] << 2 * k for k in range(4)), np.zeros_like(quarters[:, :, 0])).reshape(-1, 64)
    return np.concatenate([_nibbles(q, 64), high, s.view(np.uint8), *_halves(d)], axis=1)

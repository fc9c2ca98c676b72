"""Mutations of files: of bytes, of the numbers and words in a text, and of the JSON in a file's header.

Deterministic for a generator's state. A header that is mutated keeps a length that fits it, so that what a reader does
behind its first checks is reached too.
"""

from __future__ import annotations

import json
import random
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 16, 64, 127, 128, 255, 256, 4095, 65535, 65536, 10**5, 2**24, 2**31 - 1, 2**31)
NUMBERS += (2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30)
VALUES = (
    *NUMBERS,
    0.5,
    -0.0,
    1e-45,
    1e300,
    float("inf"),
    float("nan"),
    True,
    False,
    None,
    "",
    "a",
    "\0",
    "../x",
    [],
    {},
)
TOKEN = re.compile(rb"-?\d+\.?\d*(?:[eE][-+]?\d+)?|[A-Za-z_]+")
TEXTS = (b"0", b"-1", b"1e999", b"nan", b"4294967296", b"9" * 20, b"", b"\n", b" ", b"/", b"\xff\xfe", b"\0")


@dataclass(frozen=True)
class Envelope:
    """JSON inside a file.  split: to (its text, what stands before and after); join: back, with lengths that fit."""

    split: Callable[[bytes], tuple[bytes, Any]]
    join: Callable[[bytes, Any], bytes]


def _split_glb(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<I", data, 12)
    return data[20 : 20 + length], data[20 + length :]


def _join_glb(text: bytes, rest: bytes) -> bytes:
    text += b" " * (-len(text) % 4)
    return struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def _split_safetensors(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<Q", data)
    return data[8 : 8 + length], data[8 + length :]


def _split_vxz(data: bytes) -> tuple[bytes, bytes]:
    (end,) = struct.unpack_from(">I", data, 4)
    return data[8:end], data[end:]


WHOLE = Envelope(lambda data: (data, None), lambda text, _: text)
GLB = Envelope(_split_glb, _join_glb)
SAFETENSORS = Envelope(_split_safetensors, lambda text, rest: struct.pack("<Q", len(text)) + text + rest)
VXZ = Envelope(_split_vxz, lambda text, rest: b"VXZ\0" + struct.pack(">I", 8 + len(text)) + text + rest)


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes], envelope: Envelope | None = None) -> bytes:
    """Returns `data` with one to four changes. others: files of the same format, of which parts are taken."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        kind = rng.random()
        if envelope is not None and kind < 0.6:
            data = _in_json(data, rng, envelope)
        elif kind < 0.75 and _is_text(data):
            data = _in_text(data, rng)
        else:
            data = _in_bytes(data, rng, others)
    return data


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:400]


def _in_json(data: bytes, rng: random.Random, envelope: Envelope) -> bytes:
    try:
        text, rest = envelope.split(data)
        root = [json.loads(text)]
    except (ValueError, struct.error, RecursionError):
        return data
    places = []
    waiting = [root]
    while waiting and len(places) < 3000:
        holder = waiting.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            places.append((holder, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    holder, key = rng.choice(places)
    what = rng.randrange(8)
    if what == 0 and isinstance(holder, dict):
        del holder[key]
    elif what == 1 and isinstance(holder, list) and holder is not root:
        holder.extend([holder[key]] * rng.choice((1, 2, 100)))
    elif what == 2:
        other, name = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif what == 3 and isinstance(holder[key], int | float):
        holder[key] += rng.choice((-1, 1, 4, holder[key]))
    elif what == 4 and isinstance(holder, dict):
        holder[rng.choice(places)[1] if rng.random() < 0.5 else "x"] = holder[key]
        holder.update({str(name): holder.pop(name) for name in [n for n in holder if not isinstance(n, str)]})
    else:
        holder[key] = rng.choice(VALUES)
    return envelope.join(json.dumps(root[0], separators=(",", ":")).encode(), rest)


def _in_text(data: bytes, rng: random.Random) -> bytes:
    found = list(TOKEN.finditer(data[: 1 << 16]))
    if not found:
        return data
    token = rng.choice(found)
    what = rng.randrange(4)
    if what == 0:
        other = rng.choice(found)[0]
    elif what == 1:
        other = rng.choice(TEXTS)
    elif what == 2:
        other = str(rng.choice(NUMBERS)).encode()
    else:
        # A line again, elsewhere.
        lines = data.split(b"\n")
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
        return b"\n".join(lines)
    return data[: token.start()] + other + data[token.end() :]


def _in_bytes(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    where = rng.randrange(len(data) + 1)
    # Headers stand at the start.
    if rng.random() < 0.4:
        where = rng.randrange(min(len(data), 64) + 1)
    what = rng.randrange(7)
    if what == 0 and where < len(data):
        return data[:where] + bytes([data[where] ^ 1 << rng.randrange(8)]) + data[where + 1 :]
    if what == 1:
        form = rng.choice("<>") + rng.choice("BHIQ")
        number = rng.choice(NUMBERS) & (256 ** struct.calcsize(form) - 1)
        return data[:where] + struct.pack(form, number) + data[where + struct.calcsize(form) :]
    if what == 2:
        return data[:where] + data[where + rng.choice((1, 2, 4, 8, 100)) :]
    if what == 3:
        return data[:where] + rng.randbytes(rng.choice((1, 2, 4, 8, 40))) + data[where:]
    if what == 4:
        return data[:where]
    if what == 5 and others:
        other = rng.choice(others)
        return data[:where] + other[min(where, len(other)) :]
    part = data[where : where + rng.choice((4, 16, 64))]
    return data[:where] + part * rng.choice((1, 2, 50)) + data[where:]

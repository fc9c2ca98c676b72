"""Checks a value of a configuration file against the type that its field declares, and against what a network can be.

Without this, a file with a billion layers would be built for hours, and a text in a number's place would fail far from
the file that has it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# Items of a list, letters of a text, keys of an object.
MOST_ITEMS, LONGEST_TEXT = 4096, 4096
# Whole numbers that no field of its own limit passes: a seed's.
LARGEST = 1 << 63
# (least, most) by field, several times beyond any network that is known. Of a list, each number; and see MOST_BLOCKS.
WIDTH = (1, 1 << 16)
LIMITS: Mapping[str, tuple[int, int]] = {
    "resolution": (1, 4096),
    "in_channels": WIDTH,
    "out_channels": WIDTH,
    "model_channels": WIDTH,
    "cond_channels": WIDTH,
    "latent_channels": WIDTH,
    "proj_in_channels": WIDTH,
    "channels": WIDTH,
    "num_heads": (1, 1024),
    "num_head_channels": (1, 1 << 16),
    "num_blocks": (0, 256),
    "num_res_blocks": (0, 64),
    "num_res_blocks_middle": (0, 64),
    "mlp_ratio": (0, 64),
    "steps": (0, 1 << 31),
    "image_size": (16, 1 << 14),
    "cells": (1, 1024),
    "side": (1, 64),
}
# Of a list of layers by level, in all; levels of a network.
MOST_BLOCKS, MOST_LEVELS = 256, 16
_LEVELS = ("num_blocks", "channels", "model_channels")


class FieldError(ValueError):
    """A value of another type than its field, or out of range."""


def checked(declared: str, value: object, where: str) -> object:
    """Returns `value` with lists as tuples. declared: the field's annotation, as text; types that are not known here
    are left to the caller.  where: the field, for messages.

    Raises FieldError for another type, for numbers that are not finite or out of LIMITS, and for long lists and texts.
    """
    kinds = declared.split(" | ")
    if value is None and "None" in kinds:
        return None
    kind, name = kinds[0], where.rpartition(".")[2]
    if kind.startswith("tuple["):
        return _items(kind[6:-1], value, where, name)
    if kind.startswith("Mapping["):
        if not isinstance(value, Mapping) or len(value) > MOST_ITEMS:
            raise FieldError(f"{where}: expected an object of at most {MOST_ITEMS} keys, got {_shown(value)}")
        inner = kind[8:-1].partition(", ")[2]
        return {key: checked(inner, item, f"{where}.{key}") for key, item in value.items()}
    if kind == "bool" and type(value) is not bool:
        raise FieldError(f"{where}: expected true or false, got {_shown(value)}")
    if kind == "str" and not (isinstance(value, str) and len(value) <= LONGEST_TEXT):
        raise FieldError(f"{where}: expected a text of at most {LONGEST_TEXT} letters, got {_shown(value)}")
    if kind in ("int", "float"):
        _check_number(kind, value, where, name)
    return value


def _items(inner: str, value: object, where: str, name: str) -> tuple[object, ...]:
    """A tuple of the items of a list. inner: "int, ..." or "float, float"."""
    kind, _, last = inner.rpartition(", ")
    wanted = "" if last == "..." else f" {inner.count(', ') + 1}"
    if not isinstance(value, list | tuple) or len(value) > MOST_ITEMS or (wanted and len(value) != int(wanted)):
        raise FieldError(f"{where}: expected a list of{wanted or f' at most {MOST_ITEMS}'} values, got {_shown(value)}")
    items = tuple(checked(kind.partition(", ")[0] if wanted else kind, item, where) for item in value)
    if name in _LEVELS and len(items) > MOST_LEVELS:
        raise FieldError(f"{where}: expected at most {MOST_LEVELS} levels, got {len(items)}")
    if name == "num_blocks" and sum(items) > MOST_BLOCKS:
        raise FieldError(f"{where}: expected at most {MOST_BLOCKS} layers in all, got {sum(items)}")
    return items


def _check_number(kind: str, value: object, where: str, name: str) -> None:
    whole = type(value) is int and abs(value) <= LARGEST
    if not whole and not (kind == "float" and type(value) is float and math.isfinite(value)):
        raise FieldError(f"{where}: expected {'a whole' if kind == 'int' else 'a finite'} number, got {_shown(value)}")
    least, most = LIMITS.get(name, (-LARGEST, LARGEST))
    if not least <= value <= most:
        raise FieldError(f"{where}: expected {least} to {most}, got {value}")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= LARGEST else "a larger number"
    return text if len(text) <= 60 else f"{text[:60]} …"

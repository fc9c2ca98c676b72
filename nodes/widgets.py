"""Widgets shared by several nodes. Sampling widgets default to the checkpoint's settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..trellis2.checkpoint.config import SamplerConfig
from ..trellis2.pipeline import MAX_TOKENS
from .sockets import CONDITION, PIPELINE, SAMPLER, SamplerOverrides

# The groups of the node menu.
MODEL_GROUP = "TRELLIS.2/model"
IMAGE_GROUP = "TRELLIS.2/image"
GENERATE_GROUP = "TRELLIS.2/generate"
MESH_GROUP = "TRELLIS.2/mesh"
ASSET_GROUP = "TRELLIS.2/asset"
FILES_GROUP = "TRELLIS.2/files"
GROUPS = (MODEL_GROUP, IMAGE_GROUP, GENERATE_GROUP, MESH_GROUP, ASSET_GROUP, FILES_GROUP)
FROM_MODEL = -1.0  # a sampler widget at this value, or any below 0, keeps the checkpoint's setting
TYPE_FROM_MODEL = "the model's own"

# name -> (type or choices, options)
Inputs = dict[str, tuple[Any, dict[str, Any]]]

SEED = (
    "INT",
    {
        "default": 42,
        "min": 0,
        "max": 2**64 - 1,
        "control_after_generate": True,
        "tooltip": "Seed of the starting noise. The same seed gives the same result on every device; object k of a "
        "batch uses seed + k. One seed in all stages gives the reference's noise.",
    },
)
TOKENS = (
    "INT",
    {
        "default": MAX_TOKENS,
        "min": 1024,
        "max": 2**20,
        "step": 1024,
        "tooltip": "Maximum latent voxels to sample. The resolution of a larger object is lowered in steps of 128. "
        "Time grows with the square of the tokens, memory linearly.",
    },
)
STEP_CACHE = (
    "BOOLEAN",
    {
        "default": False,
        "tooltip": "Extrapolates every second step's velocity from the previous ones instead of computing it: about "
        "0.57 of the sampling time, with a somewhat different result: closer to the full run than half the steps give "
        "without guidance, hardly so with it. No effect if view_mode is cycle with several views.",
    },
)


def steps(default: int = 12) -> tuple[str, dict[str, Any]]:
    """Widget of the number of sampling steps."""
    tooltip = "Sampling steps. Time is proportional to them; the published setting is 12."
    return ("INT", {"default": default, "min": 1, "max": 200, "tooltip": tooltip})


def stage_inputs(
    published: float,  # guidance of Microsoft's checkpoint
    *,
    condition: str = "From Image Condition.",
    values: Inputs | None = None,  # the stage's further sockets
    widgets: Inputs | None = None,  # and its further widgets
    overrides: Sequence[str] = (),  # those of them that a number may replace
) -> dict[str, Inputs]:
    """The inputs of a sampling stage: pipeline, condition, sockets, seed, steps, guidance, widgets; sampler, overrides.

    The canvas stores widgets by their place, so what is added to a released node goes last.
    """
    return {
        "required": {
            "pipeline": (PIPELINE, {"tooltip": "From Load Model."}),
            "condition": (CONDITION, {"tooltip": condition}),
            **(values or {}),
            "seed": SEED,
            "steps": steps(),
            "guidance": guidance(published),
            **(widgets or {}),
        },
        "optional": {"sampler": settings(), **dict(map(number_override, overrides))},
    }


def number_override(widget: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """(name, socket) of a number that replaces a list of sizes, see `chosen`: a list takes no wire from an Int."""
    options = {"min": 0, "max": 2**20, "forceInput": True}
    return f"{widget}_override", ("INT", {**options, "tooltip": f"Optional: a number that replaces {widget}."})


def chosen(name: str, choices: Sequence[str], choice: str, number: int | None) -> str:
    """Returns `choice`, or the one of `choices` that the connected `number` names. Raises ValueError for another."""
    if number is None:
        return choice
    if str(number) not in choices:
        sizes = ", ".join(c for c in choices if c.isdecimal())
        raise ValueError(f"{name}_override: expected one of the sizes of {name}, {sizes}, got {number}")
    return str(number)


def filename_prefix(default: str) -> tuple[str, dict[str, Any]]:
    """Widget of an output file's name."""
    tooltip = "File name, with optional subfolders, inside ComfyUI's output folder; a number is appended."
    return ("STRING", {"default": default, "tooltip": tooltip})


def guidance(published: float) -> tuple[str, dict[str, Any]]:
    """Widget of a stage's guidance strength. published: the value of Microsoft's checkpoint."""
    tooltip = (
        f"How strongly to follow the image (classifier-free guidance). -1: the model's own, {published} of the "
        "published one. 1: off, at half the cost: other values run the network twice on the steps inside the "
        "guidance interval."
    )
    return ("FLOAT", {"default": FROM_MODEL, "min": FROM_MODEL, "max": 30.0, "step": 0.1, "tooltip": tooltip})


def settings() -> tuple[str, dict[str, Any]]:
    """The optional sampler settings socket of a stage."""
    tooltip = "Optional: guidance rescale, interval, schedule, step cache, integrator of this stage, else as published."
    return (SAMPLER, {"tooltip": tooltip})


def configured(
    base: SamplerConfig, steps: int, guidance: float, sampler: SamplerOverrides | None = None
) -> SamplerConfig:
    """Returns the checkpoint's sampler with a node's widgets, and its sampler settings if connected, applied.

    Raises ValueError if an interval combined with the checkpoint's own ends before it starts.
    """
    params = replace(
        base.params, steps=steps, guidance_strength=_either(override(guidance), base.params.guidance_strength)
    )
    if sampler is None:
        return replace(base, params=params)
    start = _either(sampler.interval_start, params.guidance_interval[0])
    end = _either(sampler.interval_end, params.guidance_interval[1])
    if start > end:
        raise ValueError(f"guidance interval: expected start <= end, got {start} and {end}; -1 is the model's own")
    params = replace(
        params,
        guidance_rescale=_either(sampler.guidance_rescale, params.guidance_rescale),
        guidance_interval=(start, end),
        rescale_t=_either(sampler.rescale_t, params.rescale_t),
        step_cache=sampler.step_cache,
        integrator=sampler.integrator,
        times=sampler.times,
        steps=params.steps if sampler.times is None else len(sampler.times) - 1,
    )
    return replace(base, params=params)


def override(value: float) -> float | None:
    """Returns a widget's number, or None for the checkpoint's own setting (below 0)."""
    return None if value < 0 else value


def _either(value: float | None, default: float) -> float:
    return default if value is None else value

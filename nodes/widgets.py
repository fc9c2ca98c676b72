"""Widgets that several nodes share. Where a checkpoint says how it is sampled, its own settings are the default."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..trellis2.checkpoint.config import SamplerConfig
from ..trellis2.pipeline import MAX_TOKENS
from .sockets import SAMPLER, SamplerOverrides

CATEGORY = "TRELLIS.2"
OWN = -1.0  # a number of the sampler, and all below 0: the checkpoint's own
OWN_TYPE = "the model's own"

SEED = (
    "INT",
    {
        "default": 42,
        "min": 0,
        "max": 2**64 - 1,
        "control_after_generate": True,
        "tooltip": "Starting noise. The same seed gives the same result on every device; object k of a batch uses "
        "seed + k. One seed in all stages gives the reference's noise.",
    },
)
TOKENS = (
    "INT",
    {
        "default": MAX_TOKENS,
        "min": 1024,
        "max": 2**20,
        "step": 1024,
        "tooltip": "Most latent voxels to sample. An object that needs more gets a lower resolution, in steps of 128. "
        "Time grows with the square of it, memory linearly.",
    },
)
STEP_CACHE = (
    "BOOLEAN",
    {
        "default": False,
        "tooltip": "Forecasts every second step's velocity from the ones before instead of computing it: sampling in "
        "about 0.57 of the time, for a somewhat different result: closer to the full run than half the steps give "
        "without guidance, hardly so with it. No effect where views take turns.",
    },
)


def steps(default: int = 12) -> tuple[str, dict[str, Any]]:
    """The number of sampling steps."""
    tooltip = "Sampling steps. Time is proportional; the published setting is 12."
    return ("INT", {"default": default, "min": 1, "max": 200, "tooltip": tooltip})


def filename_prefix(default: str) -> tuple[str, dict[str, Any]]:
    """Where a file is saved."""
    tooltip = "Name of the file, with folders if you like, inside ComfyUI's output folder; a number is added."
    return ("STRING", {"default": default, "tooltip": tooltip})


def guidance(published: float) -> tuple[str, dict[str, Any]]:
    """The guidance strength of a stage. published: what Microsoft's checkpoint says of it."""
    tooltip = (
        f"How strongly to follow the image (classifier-free guidance). -1: the model's own, {published} of the "
        "published one. 1 is off and costs half: every other value runs the network twice on the steps inside the "
        "guidance interval."
    )
    return ("FLOAT", {"default": OWN, "min": OWN, "max": 30.0, "step": 0.1, "tooltip": tooltip})


def settings() -> tuple[str, dict[str, Any]]:
    """The optional settings socket of a stage."""
    tooltip = (
        "Optional: rescale, interval, schedule and step cache of this stage. Without it the checkpoint's own settings."
    )
    return (SAMPLER, {"tooltip": tooltip})


def configured(
    base: SamplerConfig, steps: int, guidance: float, sampler: SamplerOverrides | None = None
) -> SamplerConfig:
    """The checkpoint's sampler with a node's widgets, and its settings socket if connected, in place.

    Raises ValueError where an interval that is half the checkpoint's own ends before it starts.
    """
    params = replace(base.params, steps=steps, guidance_strength=_either(own(guidance), base.params.guidance_strength))
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
    )
    return replace(base, params=params)


def own(value: float) -> float | None:
    """A widget's number, None where it is below 0 and the checkpoint's own holds."""
    return None if value < 0 else value


def _either(value: float | None, default: float) -> float:
    return default if value is None else value

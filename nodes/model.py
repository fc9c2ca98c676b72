"""Load a checkpoint, and change how a stage samples."""

from __future__ import annotations

from typing import Any

from ..trellis2.checkpoint.layouts import Checkpoint
from ..trellis2.models import Backends
from ..trellis2.ops.attention import BACKENDS as ATTENTION
from ..trellis2.ops.quantized_linear import FORMATS
from ..trellis2.pipeline import Pipeline
from ..trellis2.runtime.streaming import VRAM_MODES
from . import host
from .sockets import PIPELINE, SAMPLER, SamplerOverrides
from .widgets import CATEGORY, OWN, STEP_CACHE, own

QUANTIZATIONS = ["none", *FORMATS]
# A schedule that shifts less would put nearly all steps at the end.
LEAST_SHIFT = 0.1


class LoadModel:
    """Networks are read from disk when a stage first needs them, and moved by ComfyUI's memory management."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Opens a TRELLIS.2 checkpoint. Each network is loaded when a stage first needs it."
    FUNCTION = "load"
    RETURN_TYPES = (PIPELINE,)
    RETURN_NAMES = ("pipeline",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        choices = host.model_choices()
        ours = (
            f"{host.BUILT_IN}: our own small one, no download; everyday objects at 512."
            if host.BUILT_IN in choices
            else "This copy of the pack comes without our own small one (assets/mini)."
        )
        model = (
            f"{ours} A folder in models/trellis2, or a published checkpoint, downloaded when first used: "
            "microsoft/TRELLIS.2-4B (16 GB, into models/trellis2) or Comfy-Org/TRELLIS.2 (12 GB, the files that "
            "ComfyUI's own nodes use)."
        )
        precision = (
            "Number format of the networks' large layers. auto: as published on a GPU (bfloat16 flows, float16 "
            "decoders), float32 on a CPU. float32 doubles the memory."
        )
        quantization = (
            "8-bit products in the flow networks: half their memory and faster sampling, for a small change of the "
            "result. int8: any recent card; takes Comfy-Org's int8 file (5 GB) if that model is chosen. fp8: Ada, "
            "Hopper and newer. Made while loading from 16-bit files."
        )
        attention = "Implementation of attention. auto: the fastest that works here; reference: slow, exact float32."
        vram = (
            "How much of the networks is kept on the card. auto: by ComfyUI's memory management, streaming on cards "
            "under 6 GB; high: each loaded whole; low: about 1 GB of the network at work, the rest streamed from "
            "memory as it computes. Same result."
        )
        names = ["auto", *(choice.name for choice in ATTENTION)]
        return {
            "required": {
                "model": (choices, {"tooltip": model}),
                "precision": (["auto", "bfloat16", "float16", "float32"], {"default": "auto", "tooltip": precision}),
                "attention": (names, {"default": "auto", "tooltip": attention}),
            },
            "optional": {
                "quantization": (QUANTIZATIONS, {"default": "none", "tooltip": quantization}),
                "vram": (list(VRAM_MODES), {"default": "auto", "tooltip": vram}),
            },
        }

    def load(
        self, model: str, precision: str, attention: str, quantization: str = "none", vram: str = "auto"
    ) -> tuple[Pipeline]:
        source, folder = host.model_source(model)
        checkpoint = Checkpoint.open(source, folder, quantization=quantization)
        return (Pipeline(checkpoint, host.residency(vram), dtype=precision, backends=Backends(attention=attention)),)


class SamplerSettings:
    """The sampling settings that few people change, for any stage's `sampler` input."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Rescale, guidance interval, schedule and step cache of one stage; connect it to the stage's sampler input."
    )
    FUNCTION = "settings"
    RETURN_TYPES = (SAMPLER,)
    RETURN_NAMES = ("sampler",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"default": OWN, "min": OWN, "max": 1.0, "step": 0.01}
        rescale = (
            "Pulls the contrast that guidance adds back to the unguided one; 0 none, 1 all. -1: the model's own, of "
            "the published one 0.7 for the structure, 0.5 for the shape, 0 for the texture."
        )
        start = (
            "Guidance applies from this time (1 is pure noise, 0 the result). -1: the model's own, 0.6 of the "
            "published one. Higher is faster."
        )
        end = "Guidance applies up to this time. -1: the model's own, of the published one 1.0, for the texture 0.9."
        shift = (
            "Spends more steps near the noise when above 1; at least 0.1. -1: the model's own, of the published one 5 "
            "for the structure, 3 for shape and texture."
        )
        return {
            "required": {
                "guidance_rescale": ("FLOAT", {**share, "tooltip": rescale}),
                "interval_start": ("FLOAT", {**share, "tooltip": start}),
                "interval_end": ("FLOAT", {**share, "tooltip": end}),
                "rescale_t": ("FLOAT", {"default": OWN, "min": OWN, "max": 20.0, "step": 0.1, "tooltip": shift}),
            },
            "optional": {"step_cache": STEP_CACHE},
        }

    def settings(
        self,
        guidance_rescale: float,
        interval_start: float,
        interval_end: float,
        rescale_t: float,
        step_cache: bool = False,
    ) -> tuple[SamplerOverrides]:
        if 0 <= interval_end < interval_start:
            raise ValueError(f"interval: expected start <= end, got {interval_start} and {interval_end}")
        if 0 <= rescale_t < LEAST_SHIFT:
            raise ValueError(f"rescale_t: expected at least {LEAST_SHIFT}, or -1 for the model's own, got {rescale_t}")
        numbers = (guidance_rescale, interval_start, interval_end, rescale_t)
        return (SamplerOverrides(*map(own, numbers), step_cache=step_cache),)

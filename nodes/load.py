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
from .sockets import PIPELINE, SAMPLER, SamplerSettings
from .widgets import CATEGORY, STEP_CACHE

QUANTIZATIONS = ["none", *FORMATS]


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


class Sampler:
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
        share = {"min": 0.0, "max": 1.0, "step": 0.01}
        rescale = (
            "Pulls the contrast that guidance adds back to the unguided one; 0 none, 1 all. Published: structure 0.7, "
            "shape 0.5, texture 0."
        )
        start = "Guidance applies from this time (1 is pure noise, 0 the result). Published 0.6. Higher is faster."
        end = "Guidance applies up to this time. Published 1.0, texture 0.9."
        shift = "Spends more steps near the noise when above 1. Published: structure 5, shape and texture 3."
        return {
            "required": {
                "guidance_rescale": ("FLOAT", {"default": 0.5, **share, "tooltip": rescale}),
                "interval_start": ("FLOAT", {"default": 0.6, **share, "tooltip": start}),
                "interval_end": ("FLOAT", {"default": 1.0, **share, "tooltip": end}),
                "rescale_t": ("FLOAT", {"default": 3.0, "min": 0.1, "max": 20.0, "step": 0.1, "tooltip": shift}),
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
    ) -> tuple[SamplerSettings]:
        if interval_start > interval_end:
            raise ValueError(f"interval: expected start <= end, got {interval_start} and {interval_end}")
        return (SamplerSettings(guidance_rescale, (interval_start, interval_end), rescale_t, step_cache),)

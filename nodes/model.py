"""Nodes that load a checkpoint and override the sampling settings of a stage."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..trellis2.capabilities import attention_problem, device_problem
from ..trellis2.checkpoint.config import INTEGRATORS, ConfigError, check_times
from ..trellis2.checkpoint.layouts import Checkpoint
from ..trellis2.models import Backends
from ..trellis2.ops.attention import NAMES
from ..trellis2.ops.quantized_linear import FORMATS
from ..trellis2.pipeline import Pipeline
from ..trellis2.runtime.streaming import VRAM_MODES
from . import host
from .sockets import PIPELINE, SAMPLER, SIGMAS, SamplerOverrides
from .widgets import FROM_MODEL, MODEL_GROUP, STEP_CACHE, override

PRECISIONS = ["auto", "bfloat16", "float16", "float32"]
QUANTIZATIONS = ["none", *FORMATS]
ATTENTION = ["auto", *NAMES]
FLOAT32_DIGITS = 7
INTEGRATOR = (
    "How a step is taken. euler: one run of the network a step, as the published model; heun: two (2 x steps - 1); "
    "rk4: four (4 x steps - 1); twice as many where guidance applies. step_cache needs euler."
)
SCHEDULE = (
    "Optional: the times of the steps, from 1 to 0, in place of rescale_t and of the stage's steps: any SIGMAS of a "
    "flow model, e.g. of Karras Scheduler with sigma_max 1."
)
# Smaller values would put nearly all steps at the end of the schedule.
LEAST_SHIFT = 0.1


class LoadModel:
    """Networks are read from disk on first use by a stage, and moved by ComfyUI's memory management."""

    CATEGORY = MODEL_GROUP
    DESCRIPTION = "Opens a TRELLIS.2 checkpoint. Each network is loaded on first use."
    FUNCTION = "load"
    RETURN_TYPES = (PIPELINE,)
    RETURN_NAMES = ("pipeline",)
    OUTPUT_TOOLTIPS = ("The open checkpoint, for Image Condition, the stages, Decode Mesh and Image to 3D.",)
    SEARCH_ALIASES = ("trellis", "trellis2", "load checkpoint", "checkpoint loader", "3d model loader", "low vram")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        choices = host.model_choices()
        built_in = (
            f"{host.BUILT_IN}: a small bundled model, no download; everyday objects at 512."
            if host.BUILT_IN in choices
            else "This copy of the pack comes without the small bundled model (assets/mini)."
        )
        model = (
            f"{built_in} A folder in models/trellis2, or a published checkpoint, downloaded on first use: "
            "microsoft/TRELLIS.2-4B (16 GB, into models/trellis2) or Comfy-Org/TRELLIS.2 (12 GB, the files that "
            "ComfyUI's own nodes use). Pixal3D follows the picture closer, from its camera: Comfy-Org's (13 GB; 8 GB "
            "with int8) or TencentARC's (24 GB); multiview for pictures of several sides. "
            "A name that ends with .gguf: the flow networks of one quantisation, converted "
            "to the precision as they are read; the other networks come from the same folder, or from Comfy-Org's."
        )
        precision = (
            "Number format of the networks' large layers. auto: as published on a GPU (bfloat16 flows, float16 "
            "decoders), float32 on a CPU. float32 doubles the memory."
        )
        quantization = (
            "8-bit products in the flow networks: half their memory and faster sampling, with slightly different "
            "results. int8: any recent card; uses Comfy-Org's int8 file (5 GB) if that model is chosen. fp8: Ada, "
            "Hopper and newer. Other files are quantised on loading."
        )
        attention = (
            "Attention backend. auto: the fastest exact one that works here; sdpa, cudnn: torch's own; flash-attn-2, "
            "-3, -4, xformers: a library that you installed, tried on this card before anything is loaded; sage: "
            "likewise, in 8 bits, so that results differ; reference: slow, explicit float32."
        )
        vram = (
            "Network weights kept in GPU memory. auto: by ComfyUI's memory management, streaming on cards under 6 GB; "
            "high: each network loaded whole; low: about 1 GB of the active network, the rest streamed from main "
            "memory as it computes. Same result."
        )
        return {
            "required": {
                "model": (choices, {"tooltip": model}),
                "precision": (PRECISIONS, {"default": "auto", "tooltip": precision, "advanced": True}),
                "attention": (ATTENTION, {"default": "auto", "tooltip": attention, "advanced": True}),
            },
            "optional": {
                "quantization": (QUANTIZATIONS, {"default": "none", "tooltip": quantization}),
                "vram": (list(VRAM_MODES), {"default": "auto", "tooltip": vram}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        model: str | None = None,
        precision: str | None = None,
        quantization: str | None = None,
        attention: str | None = None,
    ) -> bool | str:
        """True, or why this machine cannot load the choices, told when the graph is queued. None: comes by a wire.

        ComfyUI leaves the lists of the widgets named here to this method.
        """
        lists = {
            "model": (model, host.model_choices()),
            "precision": (precision, PRECISIONS),
            "quantization": (quantization, QUANTIZATIONS),
            "attention": (attention, ATTENTION),
        }
        for name, (value, choices) in lists.items():
            if value is not None and value not in choices:
                return f"{name}: expected one of {choices}, got {value!r}"
        device, precision = host.network_device(), precision or "auto"
        return (
            device_problem(device, precision, quantization or "none")
            or attention_problem(device, precision, attention or "auto", launch=False)
            or True
        )

    def load(
        self, model: str, precision: str, attention: str, quantization: str = "none", vram: str = "auto"
    ) -> tuple[Pipeline]:
        problem = attention_problem(host.network_device(), precision, attention)
        if problem is not None:
            raise ValueError(problem)
        source, folder = host.model_source(model)
        checkpoint = Checkpoint.open(
            source, folder, host.download, quantization=quantization, new_progress=host.progress
        )
        return (Pipeline(checkpoint, host.residency(vram), dtype=precision, backends=Backends(attention=attention)),)


class SamplerSettings:
    """Rarely changed sampling settings, for any stage's `sampler` input."""

    CATEGORY = MODEL_GROUP
    DESCRIPTION = (
        "Guidance rescale, guidance interval, schedule, step cache and integrator of one stage; connect it to the "
        "stage's sampler input."
    )
    FUNCTION = "settings"
    RETURN_TYPES = (SAMPLER,)
    RETURN_NAMES = ("sampler",)
    OUTPUT_TOOLTIPS = ("Settings for the sampler input of one stage, or of several.",)
    SEARCH_ALIASES = ("sampler", "guidance rescale", "cfg rescale", "schedule", "step cache", "heun", "rk4", "sigmas")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"default": FROM_MODEL, "min": FROM_MODEL, "max": 1.0, "step": 0.01}
        rescale = (
            "Rescales the guided sample's contrast to the unguided one's; 0: not at all, 1: fully. -1: the model's own,"
            " 0.7 (structure), 0.5 (shape) and 0 (texture) in the published one."
        )
        start = (
            "Guidance applies from this time (1 is pure noise, 0 the result). -1: the model's own, 0.6 in the "
            "published one. Higher is faster."
        )
        end = "Guidance applies up to this time. -1: the model's own, 1.0 (texture 0.9) in the published one."
        shift = (
            "Above 1: more steps near the noise; at least 0.1. -1: the model's own, 5 (structure) and 3 (shape, "
            "texture) in the published one."
        )
        return {
            "required": {
                "guidance_rescale": ("FLOAT", {**share, "tooltip": rescale}),
                "interval_start": ("FLOAT", {**share, "tooltip": start}),
                "interval_end": ("FLOAT", {**share, "tooltip": end}),
                "rescale_t": (
                    "FLOAT",
                    {"default": FROM_MODEL, "min": FROM_MODEL, "max": 20.0, "step": 0.1, "tooltip": shift},
                ),
            },
            "optional": {
                "step_cache": STEP_CACHE,
                "integrator": (list(INTEGRATORS), {"default": "euler", "tooltip": INTEGRATOR, "advanced": True}),
                "sigmas": (SIGMAS, {"tooltip": SCHEDULE}),
            },
        }

    def settings(
        self,
        guidance_rescale: float,
        interval_start: float,
        interval_end: float,
        rescale_t: float,
        step_cache: bool = False,
        integrator: str = "euler",
        sigmas: Any = None,
    ) -> tuple[SamplerOverrides]:
        if 0 <= interval_end < interval_start:
            raise ValueError(f"interval: expected start <= end, got {interval_start} and {interval_end}")
        if 0 <= rescale_t < LEAST_SHIFT:
            raise ValueError(f"rescale_t: expected at least {LEAST_SHIFT}, or -1 for the model's own, got {rescale_t}")
        if step_cache and integrator != "euler":
            raise ValueError(f"step_cache: expected integrator euler, got {integrator}; switch the step cache off")
        numbers = (guidance_rescale, interval_start, interval_end, rescale_t)
        times = None if sigmas is None else schedule_of(sigmas)
        rescale, start, end, shift = map(override, numbers)
        return (SamplerOverrides(rescale, start, end, shift, step_cache, integrator, times),)


def schedule_of(sigmas: Any) -> tuple[float, ...]:
    """Returns ComfyUI's SIGMAS [steps + 1] of a flow model as times from 1 to 0.

    They are float32: of each, seven digits are taken, so that 0.6 is the 0.6 of a guidance interval. Raises ValueError
    for anything else, such as sigmas of other models, and a part of a schedule.
    """
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or not sigmas.isfinite().all():
        got = f"a tensor {list(sigmas.shape)}" if isinstance(sigmas, Tensor) else type(sigmas).__name__
        raise ValueError(f"sigmas: expected ComfyUI's SIGMAS, a list of finite numbers, got {got}")
    times = tuple(round(float(sigma), FLOAT32_DIGITS) for sigma in sigmas)
    try:
        check_times(times)
    except ConfigError as error:
        raise ValueError(
            f"sigmas, {error}; connect a whole schedule of a flow model, such as Karras Scheduler's with sigma_max 1"
        ) from error
    return times

"""What a checkpoint can make, and what a device can compute, told before any network is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .checkpoint.config import DTYPES, PipelineConfig
from .networks import SHAPE_FLOW, TEXTURE_FLOW
from .ops.attention import problem
from .runtime.residency import default_dtype

# Latent voxels a side are 1/16 of the surface's.
LATENT_STRIDE = 16
# Pixels a side of the images that a flow network is guided by. 1024 serves all surfaces above 512.
IMAGE_SIZES = (512, 1024)
# Compute capability of the first NVIDIA cards with bfloat16 (Ampere) and with fp8 (Ada).
BFLOAT16_CARD, FP8_CARD = (8, 0), (8, 9)


@dataclass(frozen=True)
class PipelineType:
    """Resolutions in voxels a side. structure: of the sparse structure.  shape: of the first shape's surface.  cascade:
    of the second shape's surface, None without a cascade."""

    structure: int
    shape: int
    cascade: int | None = None

    @property
    def resolution(self) -> int:
        """Upper bound of the final surface's voxels a side."""
        return self.cascade or self.shape


PIPELINE_TYPES = {
    "512": PipelineType(structure=32, shape=512),
    "1024": PipelineType(structure=64, shape=1024),
    "1024_cascade": PipelineType(structure=32, shape=512, cascade=1024),
    "1536_cascade": PipelineType(structure=32, shape=512, cascade=1536),
    "2048_cascade": PipelineType(structure=32, shape=512, cascade=2048),
}


def image_size_of(resolutions: Sequence[int]) -> int:
    """Returns the pixels a side of the images whose tokens guide surfaces of these resolutions, 512 or 1024."""
    return 512 if max(resolutions) == 512 else 1024


# What Pixal3D was made for: no grid of 64 for the structure, and no more than 1536 voxels a side.
PROJECTED_TYPES, PROJECTED_FINEST = ("512", "1024_cascade", "1536_cascade"), 1536


@dataclass(frozen=True)
class Capabilities:
    """What a checkpoint can make. shapes, textures: image sizes that it has a flow network for, of IMAGE_SIZES.
    projects: it takes pictures with cameras, as Pixal3D."""

    shapes: tuple[int, ...]
    textures: tuple[int, ...]
    projects: bool = False

    @classmethod
    def of(cls, config: PipelineConfig) -> Capabilities:
        """Reads them from the roles of pipeline.json."""
        shapes, textures = (
            tuple(size for size in IMAGE_SIZES if role.format(size) in config.models)
            for role in (SHAPE_FLOW, TEXTURE_FLOW)
        )
        return cls(shapes, textures, getattr(config, "projects", False))

    @property
    def pipeline_types(self) -> list[str]:
        """Names of the pipeline types that it has all networks for."""
        return [name for name in PIPELINE_TYPES if self._makes(name)]

    @property
    def own_resolution(self) -> int:
        """The finest resolution, 512 or 1024, of a surface that it textures; 512 if it textures none."""
        return max(self.textures, default=512)

    def check_encoded(self, resolution: int) -> None:
        """Raises ValueError unless a mesh can be encoded and textured at `resolution` voxels a side."""
        if resolution < LATENT_STRIDE or resolution % LATENT_STRIDE:
            raise ValueError(f"resolution: expected a multiple of {LATENT_STRIDE}, got {resolution}")
        self.check_texture(resolution)

    def check_type(self, name: str) -> None:
        """Raises ValueError, naming the types that work, if it lacks a network of a pipeline type."""
        if not self._makes(name):
            raise ValueError(
                f"pipeline_type {name!r}: this checkpoint has no networks for it, only for {self.pipeline_types}; "
                "choose one of these, or another model"
            )

    def check_structure(self, grid: int) -> None:
        """Raises ValueError unless a shape can be sampled on a structure of `grid` voxels a side, or none at all."""
        sizes = tuple(size // LATENT_STRIDE for size in self.shapes if size == 512 or not self.projects)
        if grid not in (32, 64):
            raise ValueError(f"resolution: expected a grid of 32 or 64 voxels a side, got {grid}")
        if sizes and grid not in sizes:
            raise ValueError(
                f"grid {grid}: this checkpoint samples no shape on it, only on {_either(sizes)}; choose grid "
                f"{_either(sizes)}, or another model"
            )

    def check_shape(self, resolution: int) -> None:
        """Raises ValueError unless it has the shape flow of a surface of `resolution` voxels a side."""
        self._check(resolution, "shape", self.shapes)

    def check_cascade(self, resolution: int) -> None:
        """Raises ValueError unless a cascade can sample the shape of a surface of `resolution` voxels a side."""
        if 1024 not in self.shapes and resolution != 512:
            raise ValueError(
                f"resolution {resolution}: this checkpoint has no shape network above 512, so no cascade; leave the "
                'resolution of Shape Cascade at "the model\'s own", which keeps the shape, or choose another model'
            )
        if self.projects and resolution > PROJECTED_FINEST:
            raise ValueError(
                f"resolution {resolution}: Pixal3D checkpoints sample up to {PROJECTED_FINEST} voxels a side; choose "
                f"{PROJECTED_FINEST} or 1024"
            )
        self.check_shape(resolution)

    def check_texture(self, resolution: int) -> None:
        """Raises ValueError unless it has the texture flow of a surface of `resolution` voxels a side."""
        self._check(resolution, "texture", self.textures)

    def _makes(self, name: str) -> bool:
        if self.projects and name not in PROJECTED_TYPES:
            return False
        kind = PIPELINE_TYPES[name]
        shapes = {image_size_of([resolution]) for resolution in (kind.shape, kind.cascade) if resolution}
        return shapes <= set(self.shapes) and image_size_of([kind.resolution]) in self.textures

    def _check(self, resolution: int, what: str, sizes: tuple[int, ...]) -> None:
        if not sizes:
            raise ValueError(f"this checkpoint has no {what} network; choose another model")
        if image_size_of([resolution]) not in sizes:
            known = "512" if 512 in sizes else "1024 and more"
            raise ValueError(
                f"resolution {resolution}: this checkpoint has no {what} network for it, only for {known}; choose "
                f"{known}, or another model"
            )


def _either(sizes: Sequence[int]) -> str:
    return " or ".join(map(str, sizes))


def device_problem(device: torch.device, dtype: str, quantization: str) -> str | None:
    """Returns why networks cannot compute in these number formats on `device`, with a choice that works, or None.

    Asks for the kind of the device and the card's generation only, so that it costs nothing; `check_format` launches a
    product. dtype: a key of DTYPES, or "auto".  quantization: "none", "int8" or "fp8".
    """
    nvidia = device.type == "cuda" and not torch.version.hip
    card = torch.cuda.get_device_capability(device) if nvidia else None
    if quantization == "fp8" and device.type != "cuda":
        return f"quantization 'fp8' needs a GPU, and the networks run on {device}; choose 'none'"
    if quantization == "fp8" and card is not None and card < FP8_CARD:
        return f"quantization 'fp8' needs an Ada, Hopper or newer card, and {device} is older; choose 'int8' or 'none'"
    if quantization == "int8" and device.type not in ("cpu", "cuda"):
        return f"quantization 'int8' does not work on {device}; choose 'none'"
    if dtype == "bfloat16" and card is not None and card < BFLOAT16_CARD:
        return f"precision 'bfloat16' needs an Ampere or newer card, and {device} is older; choose 'auto' (float16)"
    if dtype in DTYPES and device.type not in ("cpu", "cuda") and not _multiplies(device, DTYPES[dtype]):
        return f"precision {dtype!r} does not work on {device}; choose 'float32'"
    return None


def attention_problem(device: torch.device, dtype: str, attention: str, *, launch: bool = True) -> str | None:
    """Returns why the flow networks cannot use an attention backend in this number format on `device`, or None.

    dtype: a key of DTYPES, or "auto".  attention: a name, or "auto".  launch: False asks only what costs nothing; a
    library's first launch on a machine takes seconds.
    """
    return problem(attention, device, torso_dtype(device, dtype), launch=launch)


def torso_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """Returns the number format of the flow networks' torsos on `device`; as published, bfloat16, where it is free."""
    name = default_dtype(device) if dtype == "auto" else dtype
    return DTYPES[name] if name else torch.bfloat16


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies matrices of this dtype there; some systems lack a format for the same device."""
    try:
        ones = torch.ones(8, 8, dtype=dtype, device=device)
        return bool(((ones @ ones).float() == 8).all())
    except (RuntimeError, TypeError):
        return False

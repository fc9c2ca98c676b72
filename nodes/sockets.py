"""Socket type names, and the frozen value type of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import Mesh, OVoxel, VoxelField
from ..trellis2.pipeline import Pipeline
from ..trellis2.values import ImageCondition, ShapeLatent, SparseStructure, TextureLatent

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Cropped, matted RGB images for the image encoder; sizes may differ."""

    images: tuple[Image.Image, ...]


@dataclass(frozen=True)
class SamplerOverrides:
    """Overrides of a checkpoint's sampling settings in one stage; None: the checkpoint's. See `SamplerParams`."""

    guidance_rescale: float | None = None
    interval_start: float | None = None
    interval_end: float | None = None
    rescale_t: float | None = None
    step_cache: bool = False


PIPELINE = "T2_PIPELINE"
IMAGES = "T2_IMAGES"
CONDITION = "T2_CONDITION"
SAMPLER = "T2_SAMPLER"
STRUCTURE = "T2_STRUCTURE"
SHAPE = "T2_SHAPE"
TEXTURE = "T2_TEXTURE"
MESH = "T2_MESH"
VOXELS = "T2_VOXELS"
TEXTURED_MESH = "T2_TEXTURED_MESH"
O_VOXEL = "T2_O_VOXEL"
# A socket that takes either kind of mesh.
ANY_MESH = f"{MESH},{TEXTURED_MESH}"
# Sockets of ComfyUI and other packs, with their values.
COMFY_MESH = "MESH"
TRIMESH = "TRIMESH"
COMFY_CAMERA = "LOAD3D_CAMERA"

VALUES: dict[str, type] = {
    PIPELINE: Pipeline,
    IMAGES: PreparedImages,
    CONDITION: ImageCondition,
    SAMPLER: SamplerOverrides,
    STRUCTURE: SparseStructure,
    SHAPE: ShapeLatent,
    TEXTURE: TextureLatent,
    MESH: Mesh,
    VOXELS: VoxelField,
    TEXTURED_MESH: TexturedMesh,
    O_VOXEL: OVoxel,
}


def expect(value: Any, socket: str) -> Any:
    """Returns `value` if it has the type of `socket`; another pack may use the same socket name for another type.

    Raises TypeError naming the expected and the actual type.
    """
    kind = VALUES[socket]
    if not isinstance(value, kind):
        actual = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(f"{socket}: expected a {kind.__name__} from a TRELLIS.2 node, got {actual}")
    return value


def surface(value: Any) -> Mesh:
    """Returns the mesh of a value of ANY_MESH, without its materials. Raises TypeError for another value."""
    return value.mesh if isinstance(value, TexturedMesh) else expect(value, MESH)


def textured(value: Any) -> TexturedMesh:
    """Returns a value of ANY_MESH with materials, a plain one with a default. Raises TypeError for another value."""
    return TexturedMesh(expect(value, MESH)) if isinstance(value, Mesh) else expect(value, TEXTURED_MESH)

"""Socket type names, and the frozen value type of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from PIL import Image

from ..o_voxel.files.meshes.vertex_buffer import as_textured
from ..o_voxel.material import TexturedMesh
from ..o_voxel.values import PBR_CHANNELS, Mesh, OVoxel, VoxelField
from ..trellis2.image.views import ViewDirection
from ..trellis2.pipeline import Pipeline
from ..trellis2.values import ImageCondition, ShapeLatent, SparseStructure, TextureLatent

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """Cropped, matted RGB images for the image encoder; sizes may differ. directions: of each, where they are views of
    one object taken from known sides; None: unknown.  cuts: the RGBA pictures before the crop, which checkpoints that
    project them frame in their own way; None: not kept."""

    images: tuple[Image.Image, ...]
    directions: tuple[ViewDirection, ...] | None = None
    cuts: tuple[Image.Image, ...] | None = None


@dataclass(frozen=True)
class SamplerOverrides:
    """Overrides of a checkpoint's sampling settings in one stage; None: the checkpoint's. See `SamplerParams`.

    times: replace the steps of the stage too.
    """

    guidance_rescale: float | None = None
    interval_start: float | None = None
    interval_end: float | None = None
    rescale_t: float | None = None
    step_cache: bool = False
    integrator: str = "euler"
    times: tuple[float, ...] | None = None


@dataclass(frozen=True)
class AssetOverrides:
    """Overrides of a preset of `make_asset`; None: the preset's. See `AssetOptions` and `CleanOptions`.

    occlusion_reach: 0 for no limit, which `AssetOptions` writes as None.
    """

    normal_map: bool | None = None
    occlusion: bool | None = None
    occlusion_rays: int | None = None
    occlusion_reach: float | None = None
    supersample: int | None = None
    alpha_mode: str | None = None
    gutter: int | None = None
    crease_deg: float | None = None
    max_hole_perimeter: float | None = None
    surface_resolution: int | None = None


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
ASSET_OPTIONS = "T2_ASSET_OPTIONS"
# Type of an input that takes a mesh with or without materials: ComfyUI and its front end read commas as "or".
ANY_MESH = f"{MESH},{TEXTURED_MESH}"
# Type of an input that takes pictures as they are, or prepared ones.
ANY_IMAGES = f"{IMAGES},IMAGE"
# Sockets of ComfyUI and other packs, with their values.
COMFY_MESH = "MESH"
TRIMESH = "TRIMESH"
SIGMAS = "SIGMAS"
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
    ASSET_OPTIONS: AssetOverrides,
}


def expect(value: Any, socket: str) -> Any:
    """Returns `value` if it has the type of `socket`; another pack may use the same socket name for another type.

    Raises TypeError naming the expected and the actual type.
    """
    kind = VALUES[socket]
    if not isinstance(value, kind):
        raise TypeError(f"{socket}: expected a {kind.__name__} from a TRELLIS.2 node, got {_kind(value)}")
    return value


def surface(value: Any) -> Mesh:
    """Returns the surface that came through an ANY_MESH socket, vertices [V, 3], without its materials.

    Raises TypeError naming the socket for anything but a Mesh or a TexturedMesh.
    """
    return value.mesh if isinstance(value, TexturedMesh) else _any_mesh(value)


def textured(value: Any) -> TexturedMesh:
    """Returns what came through an ANY_MESH socket with materials: a plain mesh gets `as_textured`'s, and no textures.

    Raises TypeError naming the socket for anything but a Mesh or a TexturedMesh.
    """
    return value if isinstance(value, TexturedMesh) else as_textured(_any_mesh(value))


def painted(value: Mesh | TexturedMesh) -> bool:
    """Returns whether a mesh has textures or vertex colours, which go before those of voxels connected beside it."""
    return isinstance(value, TexturedMesh) and value.painted


def left_behind(value: Mesh | TexturedMesh) -> list[str]:
    """Returns the lines for a node whose result does not carry the textures or vertex colours of its input."""
    if not painted(value):
        return []
    return ["Textures stay behind: Transfer Textures, with the textured mesh as its source, puts them onto the result."]


def materials(value: Any, name: str) -> VoxelField:
    """Returns the voxels of the required input `name`, attrs [N, 6] PBR_CHANNELS.

    Raises ValueError if they carry no materials, as those of a shape alone; TypeError for another type.
    """
    width = max(channels.stop for channels in PBR_CHANNELS.values())
    if value is None or (isinstance(value, VoxelField) and value.attrs.shape[1] < width):
        found = "none" if value is None else f"{value.attrs.shape[1]} channels"
        raise ValueError(
            f"{name}: expected voxels with materials ({width} channels), got {found}; connect Decode Mesh with a "
            "texture, switch materials on in Mesh to O-Voxel, or load a file that has them"
        )
    return expect(value, VOXELS)


def _any_mesh(value: Any) -> Mesh:
    if not isinstance(value, Mesh):
        raise TypeError(f"{ANY_MESH}: expected a Mesh or a TexturedMesh from a TRELLIS.2 node, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"

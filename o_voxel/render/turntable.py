"""Renders meshes and voxels: single views, turntables and contact sheets; writes picture files."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..core import color
from ..core.atomic_io import write_files
from ..core.progress import in_background
from ..material import TexturedMesh
from ..values import Mesh, VoxelField
from .camera import Camera
from .draw import Rendering, Style, draw
from .light import StudioLight
from .scene import Scene, mesh_scene, textured_scene, voxel_scene

SHEET_VIEWS = {"front": (0.0, 0.0), "side": (90.0, 0.0), "back": (180.0, 0.0), "top": (0.0, 90.0)}
# For the estimate of the time of a picture, on two CPU cores.
FRAME_SECONDS = 2
PICTURE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
SHEET_LAYERS = ("color", "normal", "depth")


def render_mesh(
    mesh: Mesh,
    camera: Camera = Camera(),
    size: tuple[int, int] = (1024, 1024),
    *,
    colors: Tensor | None = None,
    material: Tensor | None = None,
    light: StudioLight = StudioLight(),
    style: Style = Style(),
) -> Rendering:
    """Renders a mesh, vertices [V, 3], to [H, W] pixels, `size` (H, W), on the mesh's device.

    colors: [V, 3] sRGB in [0, 1], or material: [V, 6] PBR_CHANNELS in [0, 1]; default, clay. Faces are two-sided,
    whatever the winding. Raises ValueError for non-finite vertices. Deterministic.
    """
    return draw(mesh_scene(mesh, colors=colors, material=material, smooth=style.smooth), camera, size, light, style)


def render_turntable(
    subject: Mesh | TexturedMesh | VoxelField | Scene,
    frames: int,
    camera: Camera = Camera(),
    size: tuple[int, int] = (512, 512),
    *,
    light: StudioLight = StudioLight(),
    style: Style = Style(),
    progress: Callable[[float, int], None] | None = None,
) -> Tensor:
    """Renders a full turn of the camera in equal steps from its yaw: [T, H, W, 3] float32 sRGB, T = frames.

    subject: for vertex colours or materials, a scene from `mesh_scene`.  progress(done, frames): after each
    frame, and within one that takes long, `done` then with a fraction; may raise, to cancel.
    """
    if frames < 1:
        raise ValueError(f"frames: expected 1 or more, got {frames}")
    scene = as_scene(subject, style)
    images = []
    for frame in range(frames):
        moved = replace(camera, yaw_deg=camera.yaw_deg + 360.0 * frame / frames)
        bar = None if progress is None else lambda part, frame=frame: progress(frame + part, frames)
        work = partial(draw, scene, moved, size, light, style)
        images.append(in_background(lambda report, work=work: work().color, bar, FRAME_SECONDS))
    return torch.stack(images)


def contact_sheet(
    subject: Mesh | TexturedMesh | VoxelField | Scene,
    tile: int = 384,
    *,
    camera: Camera = Camera(orthographic=True),
    layers: Sequence[str] = SHEET_LAYERS,
    light: StudioLight = StudioLight(),
    style: Style = Style(),
) -> Tensor:
    """Renders front, side, back and top views in columns, layers in rows: [L tile, 4 tile, 3] float32 sRGB.

    layers: L of "color", "normal" and "depth".  tile: pixels per side of a view.  camera: yaw and pitch are ignored.
    Normals are encoded as n / 2 + 1 / 2; depth from light (near plane) to dark (far plane).
    """
    unknown = set(layers) - set(SHEET_LAYERS)
    if unknown or not layers:
        raise ValueError(f"layers: expected some of {SHEET_LAYERS}, got {tuple(layers)}")
    scene = as_scene(subject, style)
    columns = []
    for yaw_deg, pitch_deg in SHEET_VIEWS.values():
        moved = replace(camera, yaw_deg=yaw_deg, pitch_deg=pitch_deg)
        rendering = draw(scene, moved, (tile, tile), light, style)
        view = moved.view(scene.bounds, (tile, tile))
        columns.append(torch.cat([layer_image(rendering, layer, view.near, view.far) for layer in layers]))
    return torch.cat(columns, dim=1)


def layer_image(rendering: Rendering, layer: str, near: float, far: float) -> Tensor:
    """Converts a layer of a rendering to colours [H, W, 3] in [0, 1]; depth from `near` (light) to `far` (dark)."""
    if layer == "color":
        return rendering.color
    seen = rendering.depth.isfinite()[..., None]
    if layer == "normal":
        return torch.where(seen, rendering.normal / 2 + 0.5, 1.0)
    share = ((rendering.depth[..., None] - near) / (far - near)).clamp(0, 1)
    return torch.where(seen, 0.95 - 0.8 * share, 1.0).expand(-1, -1, 3)


def as_scene(subject: Mesh | TexturedMesh | VoxelField | Scene, style: Style = Style()) -> Scene:
    """Builds the scene of a subject. Raises TypeError for another type."""
    if isinstance(subject, Scene):
        return subject
    if isinstance(subject, VoxelField):
        return voxel_scene(subject)
    if isinstance(subject, Mesh):
        return mesh_scene(subject, smooth=style.smooth)
    if isinstance(subject, TexturedMesh):
        return textured_scene(subject, smooth=style.smooth)
    raise TypeError(f"subject: expected a Mesh, a TexturedMesh, a VoxelField or a Scene, got {type(subject).__name__}")


def to_bytes(image: Tensor) -> Tensor:
    """Quantises an image [...] float in [0, 1] to uint8, rounded to nearest, NaN to 0; returns uint8 unchanged."""
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ValueError(f"image: expected a float or uint8 image, got {image.dtype}")
    return color.to_bytes(image)


def save_png(path: str | Path, image: Tensor) -> Path:
    """`save_picture` as PNG, whatever the name says."""
    return _saved(path, image, "PNG")


def save_picture(path: str | Path, image: Tensor) -> Path:
    """Writes an image [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], float in [0, 1] or uint8; returns the path.

    The suffix says the format: .png, .jpg, .jpeg, .webp; a JPEG has no transparency. Creates missing folders; writes
    atomically. Values are not converted: colours must be sRGB, the fourth channel straight alpha. Needs Pillow.
    Raises ValueError for another suffix, shape or dtype, OSError if the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in PICTURE_FORMATS:
        raise ValueError(f"{path}: expected a name that ends in {', '.join(PICTURE_FORMATS)}, got {suffix!r}")
    return _saved(path, image, PICTURE_FORMATS[suffix])


def _saved(path: str | Path, image: Tensor, form: str) -> Path:
    from PIL import Image

    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] in (3, 4)):
        raise ValueError(f"image: expected shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {list(image.shape)}")
    picture = Image.fromarray(to_bytes(image).cpu().contiguous().numpy())
    file = io.BytesIO()
    options = {"JPEG": {"quality": 92}, "WEBP": {"lossless": True}}.get(form, {})
    (picture.convert("RGB") if form == "JPEG" and picture.mode == "RGBA" else picture).save(
        file, format=form, **options
    )
    return write_files({Path(path): file.getvalue()})

"""Writes Wavefront OBJ with materials (.mtl, PBR extension) and PNG textures. v is up in the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from ...core.atomic_io import FilePath, write_files
from ...core.progress import Progress, in_background, scaled
from ...material import Material, Texture, TexturedMesh
from ...names import tokens
from ...values import Mesh
from .images import pixels_of, shrink
from .options import SaveOptions
from .png import encode_png
from .prepare import has_color, prepared
from .vertex_buffer import as_textured, checked, rotate_up_axis, with_normals

# For the estimate of the time, on two CPU cores.
ENCODE_SECONDS = 4
# Rows formatted at once; a single operation holds the GIL.
ROWS_A_CHUNK = 1 << 14
# .mtl keyword and file name suffix of each texture that the format supports.
MAPS = {
    "base_color_texture": ("map_Kd", "base_color"),
    "roughness_texture": ("map_Pr", "roughness"),
    "metallic_texture": ("map_Pm", "metallic"),
    "alpha_texture": ("map_d", "alpha"),
    "emissive_texture": ("map_Ke", "emissive"),
    "normal_texture": ("norm", "normal"),
}


def write_obj(
    path: FilePath,
    mesh: Mesh | TexturedMesh,
    options: SaveOptions = SaveOptions(),
    progress: Progress | None = None,
) -> Path:
    """Writes `mesh` to `path`, its materials to an .mtl of the same name, its textures to .png files with that prefix.

    y up unless options.up is "z". Positions, UVs and normals have separate indices, so no vertex is split. Colours stay
    sRGB; occlusion is dropped, as .mtl has no keyword for it. Parts become objects; their names and the materials' are
    made unique and free of spaces. Vertex colours follow the position on its line, as most
    readers expect; a mesh with vertex colours on white materials is written without an .mtl, which would hide them.
    All files are encoded before the first is written; the .obj is written last. Deterministic. progress: called with
    the fraction done; may raise. Raises ValueError as `vertex_buffer.checked` and for non-finite UVs; OSError.
    """
    files = in_background(
        lambda report: _encoded(Path(path), mesh, options, report), scaled(progress, 0.0, 0.9), ENCODE_SECONDS
    )
    return write_files(files, scaled(progress, 0.9, 0.1))


def _encoded(target: Path, mesh: Mesh | TexturedMesh, options: SaveOptions, report: Progress) -> dict[Path, bytes]:
    """The files of an .obj, which comes last."""
    whole = prepared(checked(as_textured(mesh)), options)
    # Readers ignore vertex colours if there is a material.
    if whole.vertex_colors is not None and not any(map(has_color, whole.materials)):
        return {target: _text(_geometry(whole, options, named=False))}
    # Readers split .mtl file names at spaces.
    stem = "_".join(target.stem.split())
    textures, library = _library(whole.materials, stem, options)
    report(0.4)
    files = {target.with_name(name): content for name, content in textures.items()}
    files[target.with_name(f"{stem}.mtl")] = _text(library)
    lines = [f"mtllib {stem}.mtl", *_geometry(whole, options, named=True)]
    return {**files, target: _text(lines)}


def _library(materials: tuple[Material, ...], stem: str, options: SaveOptions) -> tuple[dict[str, bytes], list[str]]:
    """Returns ({file name: PNG}, lines of the .mtl). Shared textures are stored once."""
    names: dict[tuple, str] = {}
    files: dict[str, bytes] = {}
    lines: list[str] = []
    titles = _titles(materials)
    for number, material in enumerate(materials):
        lines += [f"newmtl {titles[number]}", *_factors(material)]
        prefix = stem if len(materials) == 1 else f"{stem}_{number}"
        for field, (keyword, ending) in MAPS.items():
            texture: Texture | None = getattr(material, field)
            if texture is None or (field == "alpha_texture" and material.alpha_mode == "OPAQUE"):
                continue
            cut = _cut(material) if field == "alpha_texture" else None
            if (id(texture), cut) not in names:
                names[id(texture), cut] = f"{prefix}_{ending}.png"
                image = shrink(pixels_of(texture), options.max_texture)
                image = image if cut is None else np.where(image >= cut, 255, 0).astype(np.uint8)
                files[names[id(texture), cut]] = encode_png(image, options.png_level)
            scaled = f" -bm {material.normal_scale:.9g}" if field == "normal_texture" else ""
            lines.append(f"{keyword}{scaled} {names[id(texture), cut]}")
        lines.append("")
    return files, lines


def _titles(materials: tuple[Material, ...]) -> list[str]:
    """What the .obj and its .mtl call the materials."""
    return tokens([material.name for material in materials], "material_")


def _cut(material: Material) -> float | None:
    """Returns the "MASK" alpha threshold, 0 to 255, which is applied to the image: .mtl has no alpha modes."""
    if material.alpha_mode != "MASK":
        return None
    return 255 * material.alpha_cutoff / max(material.alpha_factor, 1e-9)


def _opacity(material: Material) -> float:
    if material.alpha_mode == "BLEND":
        return material.alpha_factor
    hidden = material.alpha_mode == "MASK" and material.alpha_factor < material.alpha_cutoff
    return 0.0 if hidden else 1.0


def _factors(material: Material) -> Iterator[str]:
    # Equivalent Blinn-Phong exponent, for readers without PBR.
    exponent = min(2 / max(material.roughness_factor, 1e-3) ** 4 - 2, 1000.0)
    yield "illum 2"
    for keyword, values in (("Kd", material.base_color_factor), ("Ke", material.emissive_factor)):
        yield f"{keyword} {_numbers(values)}"
    shares = {"Pr": material.roughness_factor, "Pm": material.metallic_factor, "Ns": exponent, "d": _opacity(material)}
    yield from (f"{keyword} {_numbers((value,))}" for keyword, value in shares.items())


def _geometry(mesh: TexturedMesh, options: SaveOptions, *, named: bool) -> Iterator[str]:
    """Yields the lines of the .obj. named: write usemtl lines."""
    y_up = options.y_up(".obj")
    positions = rotate_up_axis(mesh.mesh.vertices, y_up) * options.scale
    if mesh.vertex_colors is None:
        yield from _lines("v", positions.numpy())
    else:
        yield from _lines("v", np.concatenate([positions.numpy(), mesh.vertex_colors[:, :3].clamp(0, 1).numpy()], 1))
    corners = [mesh.mesh.faces]
    if mesh.uv is not None:
        corners.append(mesh.uv_rows)
        yield from _lines("vt", _finite_uv(mesh.uv, corners[1]).numpy())
    shaded = with_normals(mesh, options.crease_deg)
    if shaded.normals is not None:
        corners.append(shaded.mesh.faces)
        yield from _lines("vn", rotate_up_axis(shaded.normals, y_up).numpy())
    slots = {(True, True): "{}/{}/{}", (True, False): "{}/{}", (False, True): "{}//{}", (False, False): "{}"}
    slot = slots[mesh.uv is not None, shaded.normals is not None].replace("{}", "%d")
    indices = np.stack([corner.numpy().astype(np.int64) for corner in corners], 2) + 1
    rows = indices.reshape(len(indices), -1)
    keys = (mesh.part_rows * len(mesh.materials) + mesh.material_rows).numpy()
    # Faces of a part and material together, in their order.
    order = np.argsort(keys, kind="stable")
    groups, starts = np.unique(keys[order], return_index=True)
    objects, titles, current = tokens(mesh.part_names, "part_"), _titles(mesh.materials), -1
    for key, group in zip(groups.tolist(), np.split(order, starts[1:]), strict=True):
        part, material = divmod(key, len(mesh.materials))
        if part != current and objects:
            yield f"o {objects[part]}"
        current = part
        if named:
            yield f"usemtl {titles[material]}"
        yield _formatted(f"f {slot} {slot} {slot}", rows[group])


def _text(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _finite_uv(uv: Tensor, faces: Tensor) -> Tensor:
    low, high = int(faces.min()), int(faces.max())
    if low < 0 or high >= len(uv):
        raise ValueError(f"uv_faces: expected rows of uv, 0 to {len(uv) - 1}, got {low} to {high}")
    if not bool(uv.isfinite().all()):
        raise ValueError("uv: expected finite coordinates, got NaN or infinity; unwrap the mesh again")
    return uv


def _lines(keyword: str, values: np.ndarray) -> Iterator[str]:
    """Yields one line per row of `values` [N, C]; nine digits round-trip a float32."""
    if len(values):
        yield _formatted(" ".join([keyword, *["%.9g"] * values.shape[1]]), values)


def _formatted(pattern: str, rows: np.ndarray) -> str:
    """Formats rows [N, C] with `pattern`, many in one % operation; returns lines joined by newlines."""
    parts = (rows[start : start + ROWS_A_CHUNK] for start in range(0, len(rows), ROWS_A_CHUNK))
    return "\n".join("\n".join([pattern] * len(part)) % tuple(part.reshape(-1).tolist()) for part in parts)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.9g}" for value in values)

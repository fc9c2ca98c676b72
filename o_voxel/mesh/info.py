"""What a mesh is made of: counts, openings, orientation, size, area, volume, textures."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.exact_sums import precise
from ..core.vectors import cross, dot, length
from ..material import TEXTURE_CHANNELS, TexturedMesh
from ..names import listed, material_label
from ..values import Mesh
from .connectivity.components import face_components
from .connectivity.surface import has_twin_corners, proper_edges
from .connectivity.topology import ValidMesh, area_vectors, check_mesh, origins
from .connectivity.weld import close_vertices
from .uv.check import chart_labels


@dataclass(frozen=True)
class MeshInfo:
    """Figures of a mesh. Vertices at the same place count as one for all but `vertices`, so seams open nothing.

    vertices, triangles: as stored.  parts: sets of triangles connected by edges.  open_edges: with one triangle.
    nonmanifold_edges: with more than two.  degenerate: triangles with two corners at one place; their edges do not
    count.  watertight: every edge has two triangles.  oriented: the two triangles of every edge wind alike.
    size: along x, y and z, world units (z up); one is a metre in an exported file.  area: of the surface.
    volume: enclosed, cubic units, negative if the triangles face inwards; None unless watertight and oriented.
    materials: 0 for a plain mesh.  textures: (material, name, width, height) of each.  charts: of the UV map; None
    without one.  part_names, material_names: of the objects and materials of its file, "" without.
    """

    vertices: int
    triangles: int
    parts: int
    open_edges: int
    nonmanifold_edges: int
    degenerate: int
    watertight: bool
    oriented: bool
    size: tuple[float, float, float]
    area: float
    volume: float | None
    materials: int
    textures: tuple[tuple[int, str, int, int], ...]
    charts: int | None
    part_names: tuple[str, ...] = ()
    material_names: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The figures as text, a line a topic."""
        x, y, z = self.size
        found = [
            f"{self.triangles:,} triangles, {self.vertices:,} vertices, {_count(self.parts, 'part')}",
            f"{_count(self.open_edges, 'open edge')}, {_count(self.nonmanifold_edges, 'non-manifold edge')}",
            f"{'watertight' if self.watertight else 'not watertight'}, "
            f"{'oriented alike' if self.oriented else 'not oriented alike'}",
            f"{x:.4g} × {y:.4g} × {z:.4g} m (x, y, z up)",
            f"area {self.area:.4g} m²" + ("" if self.volume is None else f", volume {self.volume:.4g} m³"),
        ]
        if self.volume is not None and self.volume < 0:
            found.append("inside out: the triangles face inwards")
        if self.degenerate:
            found.append(f"{_count(self.degenerate, 'degenerate triangle')}")
        if self.charts is not None:
            found.append(f"{_count(self.charts, 'UV chart')}, {_count(self.materials, 'material')}")
        if any(self.part_names):
            found.append(f"{_count(len(self.part_names), 'object')}: {listed(self.part_names)}")
        if any(self.material_names):
            found.append(f"{'material' if self.materials == 1 else 'materials'}: {listed(self.material_names)}")
        for material, name, width, height in self.textures:
            title = material_label(material, self.material_names[material] if self.material_names else "")
            found.append(f"{f'{title}, ' if self.materials > 1 else ''}{name}: {width} × {height}")
        return found


def mesh_info(subject: Mesh | TexturedMesh) -> MeshInfo:
    """Measures a mesh, vertices [V, 3] float32, faces [F, 3] int32 or int64, on its device. Deterministic.

    Raises ValueError for non-finite vertices or face indices out of range.
    """
    textured = subject if isinstance(subject, TexturedMesh) else None
    mesh = check_mesh(subject.mesh if textured else subject)
    stored = mesh.faces.to(torch.int64)
    faces = close_vertices(mesh.vertices, 0.0)[stored]
    order, start = proper_edges(faces, len(mesh.vertices), "auto")
    sizes = start.diff()
    first = start[:-1][sizes == 2]
    oriented = bool((origins(faces)[order[first]] != origins(faces)[order[first + 1]]).all())
    proper = ValidMesh(mesh.vertices, faces[~has_twin_corners(faces)])
    watertight = len(proper.faces) > 0 and bool((sizes == 2).all())
    used = mesh.vertices[stored.flatten()]
    extent = (used.amax(0) - used.amin(0)).tolist() if len(used) else [0.0] * 3
    return MeshInfo(
        vertices=len(mesh.vertices),
        triangles=len(stored),
        parts=len(face_components(proper).unique()),
        open_edges=int((sizes == 1).sum()),
        nonmanifold_edges=int((sizes > 2).sum()),
        degenerate=len(faces) - len(proper.faces),
        watertight=watertight,
        oriented=oriented,
        size=tuple(extent),
        area=float(length(area_vectors(mesh.vertices, stored)).sum()),
        volume=_volume(proper) if watertight and oriented else None,
        materials=len(textured.materials) if textured else 0,
        textures=_textures(textured) if textured else (),
        charts=_charts(textured) if textured else None,
        part_names=textured.part_names if textured else (),
        material_names=tuple(material.name for material in textured.materials) if textured else (),
    )


def _volume(mesh: Mesh) -> float:
    """Signed volume enclosed by a watertight, oriented mesh, faces [F, 3] int64 (divergence theorem)."""
    center = precise(mesh.vertices).mean(0)
    a, b, c = (precise(mesh.vertices[mesh.faces[:, k]]) - center for k in range(3))
    return float(dot(a, cross(b, c)).sum() / 6)


def _textures(mesh: TexturedMesh) -> tuple[tuple[int, str, int, int], ...]:
    found = []
    for number, material in enumerate(mesh.materials):
        for name in TEXTURE_CHANNELS:
            if (texture := getattr(material, name)) is not None:
                height, width = texture.image.shape[:2]
                found.append((number, name.removesuffix("_texture").replace("_", " "), width, height))
    return tuple(found)


def _charts(mesh: TexturedMesh) -> int | None:
    if mesh.uv is None:
        return None
    # Files split vertices at shading creases too: a corner is its place on the surface and on the atlas.
    place = close_vertices(mesh.mesh.vertices, 0.0)[mesh.mesh.faces.long()]
    texel = mesh.uv.contiguous().view(torch.int64).squeeze(1).unique(return_inverse=True)[1][mesh.uv_rows.long()]
    _, corner = (place * len(mesh.uv) + texel).unique(return_inverse=True)
    return len(chart_labels(corner, int(corner.max()) + 1 if corner.numel() else 0).unique())


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"

"""A light stand-in for a mesh that is drawn hundreds of times, and how well it agrees with a picture."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, tan

import numpy as np
import torch

from ...core.exact_sums import scatter_sums
from ...core.vectors import unit
from ...material import TexturedMesh
from ...mesh.connectivity.topology import area_vectors
from ...ops.raster import rasterize
from ...render.camera import Bounds, Camera
from ...render.surface_materials import SurfaceMaterials
from ...values import Mesh
from .picture import Picture

# Weight of the agreement of colours beside the overlap of outlines.
COLOR_WEIGHT = 0.35
# Least mean squared deviation of a picture's colours that tells anything, of full scale.
CONTRAST = 0.02**2
RIDGE = 1e-3
PIXELS = 4000  # compared by colour at most
INSIDE = 0.9  # matte of the pixels whose colours are compared


@dataclass(frozen=True, eq=False)
class Proxy:
    """vertices [V, 3], faces [F, 3], and a colour (sRGB) and a unit normal of each face, [F, 6] float64."""

    mesh: Mesh
    looks: np.ndarray
    bounds: Bounds

    @classmethod
    def of(cls, mesh: TexturedMesh, cells: int) -> Proxy:
        """Merges the vertices in each cell of a grid with `cells` along the longest side, if that saves faces."""
        faces, vertices = mesh.mesh.faces.long(), mesh.mesh.vertices
        every = torch.arange(len(faces), device=faces.device)
        middle = vertices.new_full((3, len(faces)), 1 / 3)
        color = SurfaceMaterials.of(mesh).read(every, middle)[:3].T
        bounds = Bounds.around(vertices)
        if len(faces) > cells * cells:
            low = vertices.amin(0)
            cell = ((vertices - low) / ((vertices.amax(0) - low).max() / cells)).long()
            key = (cell[:, 0] * (cells + 2) + cell[:, 1]) * (cells + 2) + cell[:, 2]
            key, row = key.unique(return_inverse=True)
            total = scatter_sums(torch.nn.functional.pad(vertices.double(), (0, 1), value=1.0), row, len(key))
            vertices, faces = (total[:, :3] / total[:, 3:]).float(), row[faces]
            a, b, c = faces.unbind(1)
            kept = ((a != b) & (b != c) & (c != a)).nonzero().flatten()
            faces, color = faces[kept], color[kept]
        normal = unit(area_vectors(vertices, faces).float())
        return cls(
            Mesh(vertices.contiguous(), faces.int()), torch.cat([color, normal], 1).double().cpu().numpy(), bounds
        )

    def agreement(self, camera: Camera, picture: Picture) -> tuple[float, float]:
        """(overlap of silhouette and matte, share of the picture's colours explained), each 0 to 1.

        The overlap is intersection over union. Colours are explained by the base colour times a light that is linear in
        the normal, and a rest that is too: the first two bands of spherical harmonics (Ramamoorthi and Hanrahan 2001),
        by least squares, so that neither light nor exposure must be known.
        """
        side = picture.side
        clip = camera.view(self.bounds, (side, side)).to_clip(self.mesh.vertices)
        # In numpy: hundreds of small sums, that torch would divide among threads or launch one by one.
        face = rasterize(clip, self.mesh.faces, (side, side)).face.flatten().cpu().numpy()
        matte, inside = picture.matte.flatten().cpu().numpy(), face >= 0
        common, union = matte[inside].sum(), np.maximum(matte, inside).sum()
        both = np.flatnonzero(inside & (matte > INSIDE))
        both = both[:: max(1, len(both) // PIXELS)]
        if len(both) < 32:
            return float(common / max(union, 1)), 0.0
        return float(common / max(union, 1)), self._explained(face[both], picture.color.view(-1, 3).cpu().numpy()[both])

    def _explained(self, face: np.ndarray, color: np.ndarray) -> float:
        """Share of the variance of `color` [P, 3] that the looks of `face` [P] explain."""
        looks, color = self.looks[face], color.astype(np.float64)
        light = np.concatenate([np.ones((len(looks), 1)), looks[:, 3:]], 1)
        rest = 0.0
        for channel in range(3):
            known = np.concatenate([looks[:, channel, None] * light, light], 1)
            square = known.T @ known + RIDGE * len(face) * np.eye(8)
            rest += np.square(color[:, channel] - known @ np.linalg.solve(square, known.T @ color[:, channel])).sum()
        noise = CONTRAST * color.size
        return max(0.0, 1 - float((rest + noise) / (np.square(color - color.mean(0)).sum() + noise)))

    def score(self, camera: Camera, picture: Picture) -> float:
        """What a search maximises."""
        iou, explained = self.agreement(camera, picture)
        return iou + COLOR_WEIGHT * explained


@dataclass(frozen=True)
class Pose:
    """A camera by what the picture shows of it. x, y: of the subject's centre, from -1 to 1, y up.

    size: of the subject's radius, of half the picture.  All else as in Camera.
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float
    x: float
    y: float
    size: float
    fov_deg: float

    def camera(self, bounds: Bounds) -> Camera:
        """The camera that sees the subject so: moved sideways, not turned."""
        half = tan(radians(self.fov_deg) / 2)
        distance = bounds.radius / (self.size * half)
        loose = Camera(self.yaw_deg, self.pitch_deg, distance, self.fov_deg, roll_deg=self.roll_deg)
        view = loose.view(bounds, (1, 1))
        aside = (-self.x * distance * half, -self.y * distance * half)
        target = tuple(
            c + r * aside[0] + u * aside[1] for c, r, u in zip(bounds.center, view.right, view.up, strict=True)
        )
        return Camera(self.yaw_deg, self.pitch_deg, distance, self.fov_deg, target, roll_deg=self.roll_deg)

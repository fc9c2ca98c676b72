"""What a family returns: shapes, each with what it is made of."""

from __future__ import annotations

from ....o_voxel.material import Material
from .shapes import Shape

Parts = list[tuple[Shape, Material]]

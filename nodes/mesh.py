"""Surfaces to better surfaces: clean, fill holes, simplify, remesh."""

from __future__ import annotations

import logging
from typing import Any

from ..o_voxel.mesh.remesh.outer_shell import outer_shell
from ..o_voxel.mesh.remesh.remesh import remesh
from ..o_voxel.mesh.repair.clean import CleanOptions, clean
from ..o_voxel.mesh.repair.fill_holes import fill_holes
from ..o_voxel.mesh.simplify import simplify
from ..o_voxel.values import Mesh
from . import host
from .sockets import MESH, expect
from .widgets import CATEGORY

log = logging.getLogger(__name__)


class CleanMesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "Makes a raw surface sound: welded, no doubled faces or crumbs, one winding, small holes closed."
    FUNCTION = "clean"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        weld = "Vertices closer than this become one, in world units; the object is about 1 long. 0: equal places only."
        share = "Parts with less than this share of the whole area are removed as crumbs. 0 keeps all."
        keep = "Keep only so many parts, the largest. 0 keeps all."
        hole = "Holes with a rim up to this long are closed, in world units. 0 closes none."
        outward = (
            "How outside is told: volume suits closed parts and is fast; views looks from 14 sides, for open shells."
        )
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Decode Mesh, O-Voxel to Mesh or Load Mesh."}),
                "weld_distance": (
                    "FLOAT",
                    {"default": 1e-6, "min": 0.0, "max": 0.01, "step": 1e-6, "round": False, "tooltip": weld},
                ),
                "min_part_share": (
                    "FLOAT",
                    {"default": 1e-5, "min": 0.0, "max": 1.0, "step": 1e-5, "round": False, "tooltip": share},
                ),
                "keep_parts": ("INT", {"default": 0, "min": 0, "max": 100000, "tooltip": keep}),
                "max_hole_perimeter": (
                    "FLOAT",
                    {"default": 0.03, "min": 0.0, "max": 10.0, "step": 0.001, "round": False, "tooltip": hole},
                ),
                "outward": (["volume", "views"], {"default": "volume", "tooltip": outward}),
            }
        }

    def clean(
        self,
        mesh: Mesh,
        weld_distance: float,
        min_part_share: float,
        keep_parts: int,
        max_hole_perimeter: float,
        outward: str,
    ) -> tuple[Mesh]:
        options = CleanOptions(
            weld_distance=weld_distance,
            min_area_share=min_part_share,
            keep_largest=keep_parts or None,
            max_hole_perimeter=max_hole_perimeter,
            outward=outward,
        )
        return (host.at_rest(clean(host.at_work(expect(mesh, MESH)), options, progress=host.progress())[0]),)


class FillHoles:
    CATEGORY = CATEGORY
    DESCRIPTION = "Closes holes of a cleaned mesh by the length of their rim, with patches that follow the surface."
    FUNCTION = "fill"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        perimeter = "Longest rim to close, in world units; the object is about 1 long. A large one closes mouths too."
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Clean Mesh; unwelded seams look like holes."}),
                "max_perimeter": (
                    "FLOAT",
                    {"default": 0.1, "min": 0.0, "max": 10.0, "step": 0.001, "round": False, "tooltip": perimeter},
                ),
                "curved": ("BOOLEAN", {"default": True, "tooltip": "Patches bend as the surface around does."}),
            }
        }

    def fill(self, mesh: Mesh, max_perimeter: float, curved: bool) -> tuple[Mesh]:
        return (host.at_rest(fill_holes(host.at_work(expect(mesh, MESH)), max_perimeter, curved)[0]),)


class SimplifyMesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "Fewer triangles for the same shape, by edge collapses at the least error."
    FUNCTION = "simplify"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        faces = "At most so many triangles. 8,000 suits a prop seen from afar, 50,000 a close one, 1,000,000 film."
        error = "Stop before the surface moves further than this, in world units. 0: only the number of faces counts."
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Clean Mesh or Remesh."}),
                "faces": ("INT", {"default": 50_000, "min": 4, "max": 20_000_000, "step": 1000, "tooltip": faces}),
                "max_error": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 1.0, "step": 1e-5, "round": False, "tooltip": error},
                ),
            }
        }

    def simplify(self, mesh: Mesh, faces: int, max_error: float) -> tuple[Mesh] | dict[str, Any]:
        raw = host.at_work(expect(mesh, MESH))
        light = simplify(raw, faces, max_error=max_error or None, progress=host.progress())
        result = (host.at_rest(light),)
        if max_error or len(light.faces) <= faces:
            return result
        line = f"{len(light.faces):,} triangles where {faces:,} were wanted: no collapse is left that keeps the surface"
        log.warning(line)
        return {"ui": {"text": [line]}, "result": result}


class Remesh:
    CATEGORY = CATEGORY
    DESCRIPTION = "A new closed surface around the old one: both sides of every sheet, or only the outer shell."
    FUNCTION = "remesh"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kind = "outer shell: one watertight solid without inner walls, for printing. both sides: keeps hollows."
        resolution = "Voxels along the longest side. Detail below one is lost; memory and time grow as its square."
        return {
            "required": {
                "mesh": (MESH, {"tooltip": "From Clean Mesh or Decode Mesh."}),
                "keep": (["outer shell", "both sides"], {"default": "outer shell", "tooltip": kind}),
                "resolution": ("INT", {"default": 512, "min": 32, "max": 1024, "step": 32, "tooltip": resolution}),
            }
        }

    def remesh(self, mesh: Mesh, keep: str, resolution: int) -> tuple[Mesh]:
        work = outer_shell if keep == "outer shell" else remesh
        return (host.at_rest(work(host.at_work(expect(mesh, MESH)), resolution, progress=host.progress())),)

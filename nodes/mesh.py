"""Nodes that process surfaces: clean, fill holes, remove hidden faces, smooth, simplify, remesh."""

from __future__ import annotations

import logging
from typing import Any

from ..o_voxel.material import TexturedMesh
from ..o_voxel.mesh.remesh.remesh import remesh
from ..o_voxel.mesh.remesh.solid import longest_side, solid
from ..o_voxel.mesh.repair.clean import CleanOptions, clean
from ..o_voxel.mesh.repair.fill_holes import fill_holes
from ..o_voxel.mesh.repair.hidden import DIRECTIONS, MOST_DIRECTIONS, remove_hidden_faces
from ..o_voxel.mesh.repair.smooth import MOST_ROUNDS, smooth_taubin
from ..o_voxel.mesh.simplify import simplify
from ..o_voxel.values import Mesh
from . import host
from .sockets import ANY_MESH, MESH, left_behind, surface
from .widgets import MESH_GROUP

log = logging.getLogger(__name__)

SHAPE_ONLY = "A textured mesh gives its shape; Transfer Textures puts its textures onto the result."


class CleanMesh:
    CATEGORY = MESH_GROUP
    DESCRIPTION = (
        "Cleans a raw surface: welds vertices, removes duplicate faces and tiny parts, orients faces, fills "
        "small holes."
    )
    FUNCTION = "clean"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("The cleaned mesh.",)
    SEARCH_ALIASES = (
        "clean",
        "repair mesh",
        "fix mesh",
        "weld",
        "merge vertices",
        "remove doubles",
        "loose parts",
        "floaters",
        "flip normals",
        "orient faces",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        weld = (
            "Vertices closer than this are merged, in world units; the object is about 1 long. 0: equal positions only."
        )
        share = "Parts with less than this share of the total area are removed. 0: keep all."
        keep = "Number of parts to keep, the largest first. 0: all."
        hole = "Holes with a perimeter up to this are closed, in world units. 0: none."
        outward = (
            "How the outside is determined. volume: by signed volume, fast, for closed parts; views: by visibility from"
            " 14 sides, for open shells."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": f"From Decode Mesh, O-Voxel to Mesh or Load Mesh. {SHAPE_ONLY}"}),
                "weld_distance": (
                    "FLOAT",
                    {
                        "default": 1e-6,
                        "min": 0.0,
                        "max": 0.01,
                        "step": 1e-6,
                        "round": False,
                        "tooltip": weld,
                        "advanced": True,
                    },
                ),
                "min_part_share": (
                    "FLOAT",
                    {
                        "default": 1e-5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 1e-5,
                        "round": False,
                        "tooltip": share,
                        "advanced": True,
                    },
                ),
                "keep_parts": ("INT", {"default": 0, "min": 0, "max": 100000, "tooltip": keep}),
                "max_hole_perimeter": (
                    "FLOAT",
                    {"default": 0.03, "min": 0.0, "max": 10.0, "step": 0.001, "round": False, "tooltip": hole},
                ),
                "outward": (["volume", "views"], {"default": "volume", "tooltip": outward, "advanced": True}),
            }
        }

    def clean(
        self,
        mesh: Mesh | TexturedMesh,
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
        made = clean(host.at_work(surface(mesh)), options, progress=host.progress())[0]
        host.show_text(left_behind(mesh))
        return (host.at_rest(made),)


class FillHoles:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Closes holes of a cleaned mesh up to a perimeter, with patches that follow the surface."
    FUNCTION = "fill"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("The mesh with its holes closed.",)
    SEARCH_ALIASES = ("hole", "close holes", "patch", "cap", "watertight", "repair mesh")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        perimeter = (
            "Longest perimeter to close, in world units; the object is about 1 long. Large values close openings too."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": f"From Clean Mesh; unwelded seams count as holes. {SHAPE_ONLY}"}),
                "max_perimeter": (
                    "FLOAT",
                    {"default": 0.1, "min": 0.0, "max": 10.0, "step": 0.001, "round": False, "tooltip": perimeter},
                ),
                "curved": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Patches continue the curvature of the surrounding surface.",
                        "advanced": True,
                    },
                ),
            }
        }

    def fill(self, mesh: Mesh | TexturedMesh, max_perimeter: float, curved: bool) -> tuple[Mesh]:
        made = fill_holes(host.at_work(surface(mesh)), max_perimeter, curved, progress=host.progress())[0]
        host.show_text(left_behind(mesh))
        return (host.at_rest(made),)


class RemoveHiddenFaces:
    CATEGORY = MESH_GROUP
    DESCRIPTION = (
        "Removes the faces that nobody sees from outside: inner shells, buried parts. Openings keep what they show."
    )
    FUNCTION = "remove"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("The mesh without hidden faces; open where a hidden surface met a seen one.",)
    SEARCH_ALIASES = ("hidden", "interior", "inside", "inner faces", "occluded", "internal geometry", "cull")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        margin = "Rings of triangles around what is seen that stay, against cuts that show. Costs nothing."
        directions = (
            "Directions to look from, spread over the sphere. More find what only a narrow opening shows; time is "
            "proportional."
        )
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": f"From Clean Mesh or Load Mesh. {SHAPE_ONLY}"}),
                "margin": ("INT", {"default": 1, "min": 0, "max": 100, "tooltip": margin}),
                "directions": (
                    "INT",
                    {
                        "default": DIRECTIONS,
                        "min": 8,
                        "max": MOST_DIRECTIONS,
                        "tooltip": directions,
                        "advanced": True,
                    },
                ),
            }
        }

    def remove(self, mesh: Mesh | TexturedMesh, margin: int, directions: int) -> dict[str, Any]:
        raw = host.at_work(surface(mesh))
        seen, _ = remove_hidden_faces(raw, margin, directions=directions, progress=host.progress())
        line = f"{len(raw.faces) - len(seen.faces):,} of {len(raw.faces):,} triangles removed"
        host.show_text([line])
        return {"ui": {"text": [line]}, "result": (host.at_rest(seen),)}


class SmoothMesh:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Smooths a noisy surface and keeps its volume (Taubin). Creases stay, borders move along themselves."
    FUNCTION = "smooth"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("The smoothed mesh, with the same triangles.",)
    SEARCH_ALIASES = ("smooth", "taubin", "laplacian", "relax", "denoise", "fairing")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        rounds = "Rounds of smoothing. More smooth wider waves; time is proportional. 0: none."
        strength = "How far a vertex goes towards its neighbours' mean in a round, 0 to 1."
        crease = "Edges with more degrees between their face normals stay as they are. 180: none stays."
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": f"From Clean Mesh, Remesh or Load Mesh. {SHAPE_ONLY}"}),
                "rounds": ("INT", {"default": 10, "min": 0, "max": MOST_ROUNDS, "tooltip": rounds}),
                "strength": ("FLOAT", {"default": 0.5, "min": 0.05, "max": 1.0, "step": 0.05, "tooltip": strength}),
                "crease_deg": ("FLOAT", {"default": 60.0, "min": 0.0, "max": 180.0, "step": 1.0, "tooltip": crease}),
            }
        }

    def smooth(self, mesh: Mesh | TexturedMesh, rounds: int, strength: float, crease_deg: float) -> tuple[Mesh]:
        raw = host.at_work(surface(mesh))
        return (host.at_rest(smooth_taubin(raw, rounds, strength, crease_deg=crease_deg, progress=host.progress())),)


class SimplifyMesh:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Reduces the number of triangles by edge collapses of least quadric error."
    FUNCTION = "simplify"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("The mesh with fewer triangles.",)
    SEARCH_ALIASES = ("decimate", "reduce polygons", "reduce triangles", "reduce faces", "low poly", "lowpoly", "lod")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        faces = "Maximum triangles. 8,000: a distant prop; 50,000: a close one; 1,000,000: film."
        error = "Maximum deviation of the surface, in world units. 0: limit the number of faces only."
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": f"From Clean Mesh or Remesh. {SHAPE_ONLY}"}),
                "faces": ("INT", {"default": 50_000, "min": 4, "max": 20_000_000, "step": 1000, "tooltip": faces}),
                "max_error": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 1.0, "step": 1e-5, "round": False, "tooltip": error},
                ),
            }
        }

    def simplify(self, mesh: Mesh | TexturedMesh, faces: int, max_error: float) -> tuple[Mesh] | dict[str, Any]:
        raw = host.at_work(surface(mesh))
        light = simplify(raw, faces, max_error=max_error or None, progress=host.progress())
        result = (host.at_rest(light),)
        if max_error or len(light.faces) <= faces:
            host.show_text([f"{len(light.faces):,} triangles", *left_behind(mesh)])
            return result
        line = f"{len(light.faces):,} triangles instead of {faces:,}: no collapse is left that preserves the surface"
        log.warning(line)
        host.show_text([line, *left_behind(mesh)])
        return {"ui": {"text": [line]}, "result": result}


class Remesh:
    CATEGORY = MESH_GROUP
    DESCRIPTION = "Makes a new closed surface around the input: both sides of every sheet, or only the outer shell."
    FUNCTION = "remesh"
    RETURN_TYPES = (MESH,)
    RETURN_NAMES = ("mesh",)
    OUTPUT_TOOLTIPS = ("The new closed surface.",)
    SEARCH_ALIASES = (
        "retopo",
        "retopology",
        "watertight",
        "3d print",
        "outer shell",
        "solid",
        "voxel remesh",
        "shrink wrap",
        "manifold",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        kind = "outer shell: one watertight solid without inner walls, for printing. both sides: keeps cavities."
        resolution = (
            "Voxels along the longest side. Detail below a voxel is lost; memory and time grow with its square."
        )
        wall = (
            "Outer shell: walls thinner than this are thickened, in mm of a print whose longest side is size_mm; the "
            "node says how much of the surface. Takes about twice the time. 0: as they are, one voxel at least."
        )
        size = (
            "Longest side of the print, in mm, for min_wall_mm; it scales nothing. Save Mesh has the scale of the file."
        )
        bodies = "Outer shell: how many separate bodies are kept, the largest. 0: all."
        return {
            "required": {
                "mesh": (ANY_MESH, {"tooltip": f"From Clean Mesh or Decode Mesh. {SHAPE_ONLY}"}),
                "keep": (["outer shell", "both sides"], {"default": "outer shell", "tooltip": kind}),
                "resolution": ("INT", {"default": 512, "min": 32, "max": 1024, "step": 32, "tooltip": resolution}),
            },
            "optional": {
                "min_wall_mm": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 100.0, "step": 0.1, "tooltip": wall},
                ),
                "size_mm": (
                    "FLOAT",
                    {"default": 100.0, "min": 1.0, "max": 100_000.0, "step": 1.0, "tooltip": size},
                ),
                "bodies": ("INT", {"default": 0, "min": 0, "max": 100_000, "tooltip": bodies}),
            },
        }

    def remesh(
        self,
        mesh: Mesh | TexturedMesh,
        keep: str,
        resolution: int,
        min_wall_mm: float = 0.0,
        size_mm: float = 100.0,
        bodies: int = 0,
    ) -> tuple[Mesh] | dict[str, Any]:
        given, lines = host.at_work(surface(mesh)), []
        if keep == "outer shell":
            wall = min_wall_mm / size_mm * longest_side(given)
            made, report = solid(given, resolution, min_wall=wall, bodies=bodies or None, progress=host.progress())
            lines = report.lines(f"{min_wall_mm:g} mm")
            for line in lines:
                log.warning(line)
        else:
            made = remesh(given, resolution, progress=host.progress())
        host.show_text([*lines, *left_behind(mesh)])
        result = (host.at_rest(made),)
        return {"ui": {"text": lines}, "result": result} if lines else result

"""Pictures put back onto held-out objects: the camera that is found, and the colour error of the side that it sees.

    python tests/bench/bench_project.py [--objects N] [--device cpu] [--generate] [--match light] [--pairs]

Without --generate: the true mesh with half of its colour; the error of the camera in degrees. With it:
objects that the built-in model makes of the picture, the mean Delta E 76 of base colours over the pixels that both the
true and the made object cover, before, after with the camera that is found, and after with the true one.
With --pairs: pictures against the right object, against it bent and stretched by 6 %, and against two others each:
how many are trusted.
"""

import argparse
import time
from dataclasses import replace
from math import acos, degrees

import bench  # loads the pack
import torch
from comfyui_trellis2.o_voxel.asset import PRESETS, make_asset
from comfyui_trellis2.o_voxel.bake.projection import FitOptions, Picture, ProjectOptions, fit_camera, project_pictures
from comfyui_trellis2.o_voxel.bake.projection.picture import Seen
from comfyui_trellis2.o_voxel.material import TexturedMesh
from comfyui_trellis2.o_voxel.render import Camera, textured_scene
from comfyui_trellis2.o_voxel.render.camera import Bounds
from comfyui_trellis2.o_voxel.render.surface_materials import SurfaceMaterials
from comfyui_trellis2.o_voxel.values import to_device
from comfyui_trellis2.trellis2.checkpoint.builtin import built_in
from comfyui_trellis2.trellis2.image import prepare_image
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.streaming import choose_residency
from comfyui_trellis2.trellis2.training.evaluation.evaluate import generate, held_out
from comfyui_trellis2.trellis2.training.evaluation.metrics import delta_e
from comfyui_trellis2.trellis2.training.world.dice import Dice
from comfyui_trellis2.trellis2.training.world.objects import facing, make_object
from comfyui_trellis2.trellis2.training.world.views import draw_views, framed, random_view, to_image

SIDE = 512


def angle(mesh: TexturedMesh, a: Camera, b: Camera) -> float:
    """Degrees between the directions of view of two cameras."""
    bounds = Bounds.around(mesh.mesh.vertices)
    first, second = (camera.view(bounds, (1, 1)).back for camera in (a, b))
    return degrees(acos(min(1.0, sum(x * y for x, y in zip(first, second, strict=True)))))


def colors(mesh: TexturedMesh, blank: Picture, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Base colours [S, S, 3] as `camera` sees them, and the mask [S, S] of what it sees."""
    seen = Seen.of(mesh.mesh, blank, camera)
    values = SurfaceMaterials.of(mesh).read(seen.face.clamp_min(0).flatten(), seen.bary.view(-1, 3).T.contiguous())
    return values[:3].T.view(*seen.face.shape, 3).clamp(0, 1), seen.face >= 0


def dulled(mesh: TexturedMesh) -> TexturedMesh:
    """The mesh with half of its colour: what a rough generated texture is."""
    weak = []
    for material in mesh.materials:
        texture = material.base_color_texture
        if texture is not None:
            mean = texture.image.float().mean((0, 1), keepdim=True)
            texture = replace(texture, image=((texture.image.float() + mean) / 2).byte())
        weak.append(replace(material, base_color_texture=texture))
    return replace(mesh, materials=tuple(weak))


def bent(mesh: TexturedMesh, dice: Dice) -> TexturedMesh:
    """The mesh scaled by up to 6 % along each axis, and waved by 1.5 %: as far from the picture as generated ones."""
    vertices, scale = mesh.mesh.vertices, torch.tensor([dice.between(0.94, 1.06) for _ in range(3)])
    phases = torch.tensor([dice.between(0, 6.28) for _ in range(3)])
    waves = 0.015 * torch.sin(5 * vertices.roll(-1, 1) + phases)
    return replace(mesh, mesh=replace(mesh.mesh, vertices=(vertices * scale + waves).contiguous()))


def pairs(objects: int, device: torch.device) -> None:
    """Prints the fit of every pair, then how many right ones are trusted and wrong ones refused."""
    every = held_out("instances", 42)
    made = []
    for case in every[:: max(1, len(every) // objects)][:objects]:
        mesh = facing(make_object(case.family, case.seed), Dice("heading", case.family, case.seed).between(0, 360))
        taken = draw_views(mesh, [random_view(Dice("view", case.family, case.seed, 0))], 384)[0]
        made.append((case, mesh, Picture.cropped(taken)))
    counts = {"right": [0, 0], "bent": [0, 0], "wrong": [0, 0]}
    for number, (case, _, picture) in enumerate(made):
        for step, kind in ((0, "right"), (0, "bent"), (1, "wrong"), (5, "wrong")):
            other, mesh, _ = made[(number + step) % len(made)]
            mesh = bent(dulled(mesh), Dice("bend", number)) if kind == "bent" else dulled(mesh)
            fit = fit_camera(to_device(mesh, device), picture)
            counts[kind][0] += fit.good
            counts[kind][1] += 1
            figures = f"overlap {fit.overlap:.3f}  apart {fit.apart:.4f}  explained {fit.explained:.2f}"
            print(f"{kind:6s} {case.name:24s} on {other.name:24s} {figures}  trusted {fit.good}", flush=True)
    print(*(f"{kind}: {good} of {count} trusted" for kind, (good, count) in counts.items()), sep="; ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=12)
    parser.add_argument("--device", default=bench.DEVICE.type)
    parser.add_argument("--generate", action="store_true")
    parser.add_argument("--pairs", action="store_true", help="right and wrong objects, and which fits are trusted")
    parser.add_argument("--match", default="light", help="comma-separated values of color_match")
    parser.add_argument("--steps", type=int, help="of every sampler; default: the checkpoint's")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.pairs:
        pairs(arguments.objects, device)
        return
    matches = arguments.match.split(",")
    pipeline = Pipeline.load(str(built_in()), choose_residency("auto", device)) if arguments.generate else None
    rows = []
    for case in held_out("instances", arguments.objects):
        heading = Dice("heading", case.family, case.seed).between(0, 360)
        mesh = facing(make_object(case.family, case.seed), heading)
        view = random_view(Dice("view", case.family, case.seed, 0))
        taken = draw_views(mesh, [view], SIDE)[0]
        mesh = to_device(mesh, device)
        picture = Picture.cropped(taken).to(device)
        true = framed(view.camera, textured_scene(mesh, ground=False))
        made = dulled(mesh)
        if pipeline is not None:
            asset = generate(pipeline, prepare_image(to_image(taken)), arguments.steps, 0).asset
            made = make_asset(asset.mesh, asset.field, PRESETS["preview"])
        started = time.perf_counter()
        fit = fit_camera(made, picture, FitOptions(near_yaw_deg=None if pipeline is None else 0.0))
        fitted = time.perf_counter() - started
        row = [angle(mesh, fit.camera, true), fit.overlap, fitted]
        line = f"{case.name:26s} {row[0]:6.2f} deg  {fit.overlap:.3f} {fit.explained:.2f}  {fitted:5.1f} s"
        if pipeline is not None:
            # The true camera is of the whole picture, not of the crop.
            whole = Picture(taken[..., :3].float().to(device) / 255, taken[..., 3].float().to(device) / 255)
            truth, covered = colors(mesh, whole, true)

            def error(asset: TexturedMesh, truth=truth, covered=covered, whole=whole, true=true) -> float:
                color, own = colors(asset, whole, true)
                return float(delta_e(color, truth)[covered & own].mean())

            row.append(error(made))
            for match in matches:
                options = ProjectOptions(color_match=match)
                started = time.perf_counter()
                after = error(project_pictures(made, [(picture, fit.camera)], options) if fit.good else made)
                row += [after, error(project_pictures(made, [(whole, true)], options))]
                line += (
                    f"  {match}: {row[3]:.1f} -> {row[-2]:.1f}, {row[-1]:.1f} ({time.perf_counter() - started:.1f} s)"
                )
        print(line, flush=True)
        rows.append(row)
    columns = torch.tensor(rows).T
    print("mean  ", [round(float(c.mean()), 2) for c in columns])
    print("median", [round(float(c.median()), 2) for c in columns])


if __name__ == "__main__":
    main()

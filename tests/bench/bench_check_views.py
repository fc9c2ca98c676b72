"""Check of named views on objects of the world: good rigs that are called bad, and swapped pairs that are found.

    python tests/bench/bench_check_views.py [--objects 60] [--elevation 0] [--fov 20] [--told-fov 20] [--jitter 0]

An object is drawn from its front, left, back and right. The pair that is swapped goes round over all six, whatever the
object: a symmetric one cannot show every swap, and then the check of the good rig lists that swap as not to be told.
--jitter: degrees by which every camera's azimuth and elevation are off, at random. Rigs are added to --csv as they
are done, and those in it are not done again.
"""

import argparse
import csv
import time
from collections.abc import Sequence
from itertools import combinations
from math import radians, tan
from pathlib import Path

import bench  # noqa: F401 loads the pack
import torch
from comfyui_trellis2.o_voxel.ops.raster import rasterize
from comfyui_trellis2.o_voxel.render.camera import Bounds, Camera
from comfyui_trellis2.o_voxel.values import Mesh
from comfyui_trellis2.trellis2.image.check_views import check_views
from comfyui_trellis2.trellis2.image.views import ViewDirection
from comfyui_trellis2.trellis2.training.evaluation.evaluate import WorldCase, held_out
from comfyui_trellis2.trellis2.training.world.dice import Dice
from comfyui_trellis2.trellis2.training.world.objects import make_object

AZIMUTHS = (0.0, 90.0, 180.0, 270.0)
SIDE = 256
COLUMNS = ("name", "pair", "good", "agreement", "seconds", "told", "found", "named", "swapped_agreement")


def mattes(mesh: Mesh, directions: Sequence[ViewDirection], fov_deg: float) -> list[torch.Tensor]:
    """Silhouettes [SIDE, SIDE] bool from cameras that look at the origin."""
    distance, found = 1.1 * 0.5 / tan(radians(fov_deg) / 2), []
    for at in directions:
        camera = Camera(at.azimuth_deg, at.elevation_deg, distance, fov_deg, target=(0.0, 0.0, 0.0))
        clip = camera.view(Bounds.around(mesh.vertices), (SIDE, SIDE)).to_clip(mesh.vertices)
        found.append(rasterize(clip, mesh.faces, (SIDE, SIDE)).face >= 0)
    return found


def row(case: WorldCase, pair: tuple[int, int], settings: argparse.Namespace) -> dict[str, object]:
    """The check of a good rig of the object, and of the same with two views swapped."""
    dice, jitter = Dice("rig", case.family, case.seed), settings.jitter
    said = [ViewDirection(azimuth, settings.elevation) for azimuth in AZIMUTHS]
    true = [
        ViewDirection(d.azimuth_deg + dice.between(-jitter, jitter), d.elevation_deg + dice.between(-jitter, jitter))
        for d in said
    ]
    shown = mattes(make_object(case.family, case.seed).mesh, true, settings.fov)
    started = time.perf_counter()
    good = check_views(shown, said, settings.told_fov)
    seconds = time.perf_counter() - started
    first, second = pair
    shown[first], shown[second] = shown[second], shown[first]
    swapped = check_views(shown, said, settings.told_fov)
    words = f"{good.names[first]} and {good.names[second]} are swapped"
    values = (case.name, f"{good.names[first]}-{good.names[second]}", int(good.good), f"{good.mean:.4f}")
    values += (f"{seconds:.2f}", int(words not in good.unseen), int(words in swapped.found), "; ".join(swapped.found))
    return dict(zip(COLUMNS, (*values, f"{swapped.mean:.4f}"), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=60)
    parser.add_argument("--elevation", type=float, default=0.0)
    parser.add_argument("--fov", type=float, default=20.0)
    parser.add_argument("--told-fov", type=float, help="what the check is told (default: --fov)")
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--csv", type=Path, default=Path("check_views.csv"))
    settings = parser.parse_args()
    settings.told_fov = settings.told_fov or settings.fov
    done = list(csv.DictReader(settings.csv.open())) if settings.csv.exists() else []
    pairs = list(combinations(range(len(AZIMUTHS)), 2))
    with settings.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if not done:
            writer.writeheader()
        for number, case in list(enumerate(held_out("instances", settings.objects)))[len(done) :]:
            done.append(row(case, pairs[number % len(pairs)], settings))
            writer.writerow(done[-1])
            file.flush()
            print(*done[-1].values(), sep="  ", flush=True)
    told = [one for one in done if int(one["told"])]
    print(f"good rigs called bad: {sum(not int(one['good']) for one in done)} of {len(done)}")
    print(f"swapped pair named: {sum(int(one['found']) for one in done)} of {len(done)} blind")
    print(f"of the pairs that outlines tell: {sum(int(one['found']) for one in told)} of {len(told)}")
    print(f"of the first 20 of them: {sum(int(one['found']) for one in told[:20])}")
    wrong = sum(bool(one["named"]) and not int(one["found"]) for one in done)
    print(f"something else named: {wrong} of {len(done)}")
    print(f"seconds of a good rig: {sum(float(one['seconds']) for one in done) / len(done):.1f}")


if __name__ == "__main__":
    main()

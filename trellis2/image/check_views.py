"""Checks named views of one object by their mattes: which are swapped, mirrored, or from another angle than said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...o_voxel.core.progress import Progress, in_background, silent
from .views import NAMED_VIEWS, ViewDirection
from .visual_hull import Crops, Mattes, Rigs, explained, fit_crops

DEFAULT_FOV = 20.0
FOVS = (1.0, 90.0)
# Pixels a view, samples a ray, steps: of all changes, and of the best.
COARSE, FINE = (64, 16, 20), (200, 24, 40)
# Changes that are looked at exactly: so many, if their rough loss is lower than that of none by a factor.
REFINED, PROMISING = 3, 1.25
# A change is named if it lowers the loss by this factor, above a floor that noise of the pixels gives.
CLEAR, FLOOR = 3.0, 0.008
# Changes with losses this close are equally good.
EQUAL = 1.6
# Of changes that are rougher than none by less than this factor it is asked whether they would be found.
DOUBTFUL = 5.0
GOOD, POOR = 0.97, 0.9
AZIMUTH_STEPS = (-60.0, -30.0, 30.0, 60.0, 90.0, -90.0, 180.0)
SECONDS = 3.0
DARK = 8  # of 255: what a prepared picture's background is not brighter than
PAPER, KNOWN, MISSING = (32, 32, 36), (222, 222, 222), (235, 96, 30)


@dataclass(frozen=True)
class Change:
    """Something done to the views. words: what it says of them.  rows, directions: as in `Rigs.of`."""

    words: str
    rows: tuple[int, ...]
    directions: tuple[ViewDirection, ...]


@dataclass(frozen=True, eq=False)
class ViewCheck:
    """names: of the V views.  coverage: share of each matte that the visual hull explains, 0 to 1.

    found: what is wrong, in words; several are equally good explanations.  agreement: mean coverage with the first of
    them.  unseen: changes that these mattes would not let find.  pictures: [V, 288, 288, 3] uint8, each matte: light
    what the hull explains, orange what it does not.
    """

    names: tuple[str, ...]
    coverage: tuple[float, ...]
    found: tuple[str, ...]
    agreement: float
    unseen: tuple[str, ...]
    pictures: Tensor

    @property
    def mean(self) -> float:
        """Mean coverage of the views as they were given."""
        return sum(self.coverage) / len(self.coverage)

    @property
    def good(self) -> bool:
        """Nothing is wrong, as far as the mattes tell."""
        return not self.found and self.mean >= POOR

    def lines(self) -> list[str]:
        """The check in words, one line a topic."""
        shares = ", ".join(f"{name} {share:.3f}" for name, share in zip(self.names, self.coverage, strict=True))
        lines = [f"explained by the other views: {shares}"]
        if self.found:
            others = "".join(f"; or {words}" for words in self.found[1:])
            lines.append(
                f"{self.found[0]}{others}: corrected, the agreement rises from {self.mean:.3f} to {self.agreement:.3f}"
            )
        elif self.mean >= GOOD:
            lines.append("the views fit together")
        elif self.mean >= POOR:
            lines.append("the views fit together roughly; angles, field of view or mattes are not exact")
        else:
            worst = self.names[int(np.argmin(self.coverage))]
            lines.append(
                f"the views do not fit together (agreement {self.mean:.3f}, expected {POOR} or more), {worst} least; "
                "no swap, mirror or other angle explains it: look at the mattes, and whether all show one object in "
                "one pose"
            )
        if self.unseen and not self.found:
            lines.append(f"not to be told from outlines: {'; '.join(self.unseen)}")
        return lines


def matte_of(image: Image.Image) -> Tensor:
    """[H, W] float32, 1 on the object: the alpha of a picture that has one, else what is not black, as in a picture by
    `prepare_image`."""
    if "A" in image.getbands():
        return torch.from_numpy(np.array(image.getchannel("A"))).float() / 255
    return (torch.from_numpy(np.array(image.convert("RGB"))).amax(2) > DARK).float()


def direction_name(direction: ViewDirection) -> str:
    """ "front" and so on, whatever its elevation; else the angles."""
    azimuth = direction.azimuth_deg % 360
    for name, known in NAMED_VIEWS.items():
        level = abs(known.elevation_deg) < 45 and abs(direction.elevation_deg) < 45
        if known.azimuth_deg == azimuth and (level or known.elevation_deg == direction.elevation_deg):
            return name
    return f"azimuth {azimuth:g}, elevation {direction.elevation_deg:g}"


def check_views(
    mattes: Sequence[Tensor],
    directions: Sequence[ViewDirection],
    fov_deg: float = DEFAULT_FOV,
    *,
    progress: Progress | None = None,
) -> ViewCheck:
    """Carves the visual hull of the mattes and tests which change of the views would make it explain them better.

    mattes: each [H, W], bool or 0 to 1, the object anywhere and of any size in it: its crop is found.  directions: of
    each.  fov_deg: of the pictures before they were cropped, roughly; perspective is what tells front from back.
    Tested are swaps of two views and a mirrored one; where these explain nothing, another azimuth of one view. A change
    is named only if it explains the mattes clearly better; equally good ones are all named, as a swap of front and back
    and one of left and right, which differ by half a turn.  Deterministic; one to
    four seconds on a CPU.  progress: called with the fraction done; may raise, to cancel.
    Raises ValueError for fewer than two views, another number of directions, an empty matte, or fov_deg out of range.
    """
    if len(mattes) < 2 or len(mattes) != len(directions):
        raise ValueError(
            f"views: expected two or more pictures, each with its direction, got {len(mattes)} and {len(directions)}"
        )
    if not FOVS[0] <= fov_deg <= FOVS[1]:
        raise ValueError(f"fov: expected {FOVS[0]:g} to {FOVS[1]:g} degrees, got {fov_deg}")

    def work(report: Progress) -> ViewCheck:
        # ComfyUI runs nodes in inference mode, which has no derivatives.
        with torch.inference_mode(False), torch.enable_grad():
            return _checked(Mattes.of([matte.clone() for matte in mattes]), tuple(directions), fov_deg, report)

    return in_background(work, progress, SECONDS)


def _checked(
    mattes: Mattes, directions: tuple[ViewDirection, ...], fov_deg: float, report: Progress = silent
) -> ViewCheck:
    names = tuple(direction_name(direction) for direction in directions)
    changes = _swaps_and_mirrors(names, directions)
    rough: list[float] | None
    rigs, crops, losses, rough = _tried(changes, mattes, fov_deg)
    report(0.6)
    coverage, shown = _coverage(rigs.chosen([0]), crops.chosen([0]), mattes)
    found = _clear(losses)
    if not found and sum(coverage) / len(coverage) < GOOD:
        changes = [changes[0], *_other_angles(names, directions)]
        rigs, crops, losses, _ = _tried(changes, mattes, fov_deg)
        found = _clear(losses)
        rough = None
    report(0.95)
    agreement = sum(coverage) / len(coverage)
    if found:
        better = _coverage(rigs.chosen(found[:1]), crops.chosen(found[:1]), mattes)[0]
        agreement = sum(better) / len(better)
    unseen = () if rough is None or found else _unseen(changes, rigs, crops, mattes, rough)
    return ViewCheck(names, coverage, tuple(changes[k].words for k in found), agreement, unseen, _drawn(mattes, shown))


def _swaps_and_mirrors(names: Sequence[str], directions: tuple[ViewDirection, ...]) -> list[Change]:
    count = len(names)
    plain = tuple(range(count))
    changes = [Change("as given", plain, directions)]
    for a, b in combinations(range(count), 2):
        rows = list(plain)
        rows[a], rows[b] = b, a
        changes.append(Change(f"{names[a]} and {names[b]} are swapped", tuple(rows), directions))
    for a in range(count):
        rows = list(plain)
        rows[a] += count
        changes.append(Change(f"{names[a]} is mirrored", tuple(rows), directions))
    return changes


def _other_angles(names: Sequence[str], directions: tuple[ViewDirection, ...]) -> list[Change]:
    rows, changes = tuple(range(len(names))), []
    for view, name in enumerate(names):
        for step in AZIMUTH_STEPS:
            azimuth = (directions[view].azimuth_deg + step) % 360
            turned = [*directions]
            turned[view] = replace(directions[view], azimuth_deg=azimuth)
            if turned[view] not in directions:
                words = f"{name} is from another side, azimuth {azimuth:g} or so"
                changes.append(Change(words, rows, tuple(turned)))
    return changes


def _tried(changes: Sequence[Change], mattes: Mattes, fov_deg: float) -> tuple[Rigs, Crops, list[float], list[float]]:
    """The rigs of the changes, the first of which is none, their crops, their losses, inf where it is not worth to
    find it exactly, and the rough losses of all."""
    rigs = Rigs.of([(change.rows, change.directions) for change in changes], fov_deg)
    crops, rough = fit_crops(rigs, Crops.first(rigs, mattes), mattes, COARSE)
    order, most = rough.argsort().tolist(), (float(rough[0]) + FLOOR) / PROMISING
    best = [0, *(k for k in order if k != 0 and float(rough[k]) + FLOOR < most)][: REFINED + 1]
    fine, loss = fit_crops(rigs.chosen(best), crops.chosen(best), mattes, FINE)
    scales, offsets = crops.scales.clone(), crops.offsets.clone()
    scales[best], offsets[best] = fine.scales, fine.offsets
    losses = torch.full_like(rough, torch.inf)
    losses[best] = loss
    return rigs, Crops(scales, offsets), losses.tolist(), rough.tolist()


def _clear(losses: Sequence[float]) -> list[int]:
    """The changes that are clearly better than none, and equally good as the best of them; best first."""
    order = sorted(range(1, len(losses)), key=lambda k: losses[k])
    if not order or losses[0] + FLOOR < CLEAR * (losses[order[0]] + FLOOR):
        return []
    return [k for k in order if losses[k] + FLOOR <= EQUAL * (losses[order[0]] + FLOOR)]


def _unseen(
    changes: Sequence[Change], rigs: Rigs, crops: Crops, mattes: Mattes, rough: Sequence[float]
) -> tuple[str, ...]:
    """What would not be found, were it so: "front and back are swapped". The same losses tell: none's and its."""
    doubtful = [k for k in range(1, len(rough)) if rough[k] + FLOOR <= DOUBTFUL * (rough[0] + FLOOR)]
    index = [0, *doubtful]
    _, losses = fit_crops(rigs.chosen(index), crops.chosen(index), mattes, FINE)
    least, *others = (losses + FLOOR).tolist()
    return tuple(changes[k].words for k, loss in zip(doubtful, others, strict=True) if loss < CLEAR * least)


def _coverage(rig: Rigs, crops: Crops, mattes: Mattes) -> tuple[tuple[float, ...], list[Tensor]]:
    with torch.no_grad():
        shown = explained(rig, crops, mattes)
    masks = mattes.masks[rig.rows[0]]
    return tuple(float(a.sum() / b.sum()) for a, b in zip(shown, masks, strict=True)), shown


def _drawn(mattes: Mattes, shown: Sequence[Tensor]) -> Tensor:
    pictures = []
    for mask, known in zip(mattes.masks, shown, strict=False):
        picture = torch.tensor([PAPER, MISSING, KNOWN], dtype=torch.uint8)[mask.long() + known.long()]
        pictures.append(F.pad(picture.permute(2, 0, 1), (8, 8, 8, 8)).repeat_interleave(2, 1).repeat_interleave(2, 2))
    return torch.stack(pictures).permute(0, 2, 3, 1).contiguous()

"""Latents of the flows' objects: encoded once by the trained VAEs, kept in a folder, with their statistics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ....o_voxel.values import OVoxel
from ...checkpoint.config import Normalization
from ...checkpoint.weights import read_metadata, read_tensors, save_weights
from ...models.shape_vae import dual_grid_features
from ...models.texture_vae import field_features
from ...sparse import SparseTensor
from ..loop.distributed import Team
from ..recipe import DataConfig
from ..tasks.vaes import occupancy, pack_voxels, unpack_voxels
from .dataset import Example
from .stream import Batch, Item, in_order, to_device

STATISTICS = "statistics.json"
# What the encoders make, and which makes it; and how many objects go through them at once.
ENCODERS = {"structure": "sparse_structure_encoder", "shape": "shape_slat_encoder", "texture": "tex_slat_encoder"}
AT_ONCE = {"structure": 64, "shape": 2, "texture": 2}
SLATS = ("shape", "texture")  # latents on the object's voxels; pipeline.json tells their statistics


@dataclass(frozen=True, eq=False)
class LatentExample:
    """One object as the flows see it.

    latents: by name, the encoders' means, not normalised, float32: "structure" [C, R, R, R]; "shape" and "texture"
    [T, C], whose voxels are "coords" [T, 3] int32.  images: [V, S, S, 3] uint8, as in Example.
    """

    latents: Mapping[str, Tensor]
    images: Tensor


@dataclass(frozen=True)
class LatentFolder:
    """Encoded objects of a run. Called with an index, it gives that object."""

    folder: Path

    @classmethod
    def of(cls, run: Path, names: Sequence[str], resolution: int) -> LatentFolder:
        """Those of a run that hold these latents, of voxels of this resolution."""
        return cls(run / f"latents_{resolution}" / "_".join(names))

    def __call__(self, index: int) -> LatentExample:
        tensors = read_tensors(self.path(index))
        return LatentExample(tensors, tensors.pop("images"))

    def path(self, index: int) -> Path:
        """The file of an object."""
        return self.folder / f"{index:08d}.safetensors"

    def holds(self, index: int, encoders: str) -> bool:
        """Whether the object is there, encoded by networks of this fingerprint."""
        path = self.path(index)
        return path.exists() and read_metadata(path).get("encoders") == encoders

    def told_of(self, encoders: str) -> bool:
        """Whether the statistics are there, of latents by networks of this fingerprint."""
        path = self.folder / STATISTICS
        return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("encoders") == encoders

    def statistics(self) -> Mapping[str, Normalization] | None:
        """Of the SLATS, once all objects are encoded."""
        path = self.folder / STATISTICS
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        return {key: Normalization(mean=tuple(data[key]["mean"]), std=tuple(data[key]["std"])) for key in SLATS}


def encode_objects(
    encoders: Mapping[str, nn.Module],
    make: Callable[[int], Example],
    objects: int,
    data: DataConfig,
    folder: LatentFolder,
    team: Team,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Encode those of `objects` objects that are not in the folder yet, each card its share, and write the statistics:
    those of the first stage that these encoders worked for, also where a later one has other objects.

    encoders: some of ENCODERS by their latents' names, on the team's device. Goes on after a kill. Latents that other
    encoders made are made again.
    """
    made_by = fingerprint(encoders)
    mine = range(team.card, objects, team.cards)
    missing = [index for index in mine if not folder.holds(index, made_by)]
    ready = partial(gather, tuple(encoders), data.structure)
    done = 0
    for batch in in_order(make, missing, data.workers, ready, min(AT_ONCE[name] for name in encoders)):
        for latent in encode(encoders, batch, team.device):
            tensors = {**latent.latents, "images": latent.images}
            save_weights(tensors, folder.path(missing[done]), {"encoders": made_by})
            done += 1
        if progress is not None:
            progress(done / len(missing))
    team.barrier()
    if team.leads and set(SLATS) <= set(encoders) and not folder.told_of(made_by):
        statistics = {key: channel_statistics(folder, key, objects) for key in SLATS}
        told = json.dumps({"encoders": made_by, **statistics}, indent=1)
        (folder.folder / STATISTICS).write_text(told + "\n", encoding="utf-8")
    team.barrier()


def gather(names: Sequence[str], structure_side: int, items: Sequence[Item]) -> Batch:
    """What the encoders of these latents take of some objects. structure_side: of the structure's grid, in voxels."""
    examples: list[Example] = [example for example, _ in items]
    batch: Batch = {"images": torch.stack([example.images for example in examples])}
    if "structure" in names:
        batch["occupied"] = occupancy([example.voxels.dual_grid for example in examples], structure_side).bool()
    if set(names) & set(SLATS):
        batch |= pack_voxels([example.voxels for example in examples])
    return batch


@torch.no_grad()
def encode(encoders: Mapping[str, nn.Module], batch: Batch, device: torch.device) -> list[LatentExample]:
    """The latents, on the CPU, of objects that `gather` gathered."""
    images, given = batch["images"], to_device(batch, device)
    found: list[dict[str, Tensor]] = [{} for _ in images]
    if "structure" in encoders:
        _add(found, "structure", encoders["structure"](given["occupied"].float())[0])
    slats = [name for name in SLATS if name in encoders]
    objects = unpack_voxels(given) if slats else []
    for name in slats:
        mean = encoders[name](_features(name, objects)).mean
        _add(found, name, mean.feats.split(mean.coords.lengths))
    if slats:  # on the same voxels, all of them
        _add(found, "coords", mean.coords.voxels.split(mean.coords.lengths))
    return [LatentExample(latents, image) for latents, image in zip(found, images, strict=True)]


def fingerprint(encoders: Mapping[str, nn.Module]) -> str:
    """A word that tells these weights from others."""
    digest = hashlib.sha256()
    for name in sorted(encoders):
        for parameter in encoders[name].state_dict().values():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _features(name: str, objects: Sequence[OVoxel]) -> SparseTensor:
    """What the encoder of a latent of SLATS takes."""
    if name == "shape":
        return dual_grid_features([voxels.dual_grid for voxels in objects])
    return field_features([voxels.field for voxels in objects])


def _add(objects: list[dict[str, Tensor]], name: str, values: Iterable[Tensor]) -> None:
    for latents, value in zip(objects, values, strict=True):
        latents[name] = value.cpu().contiguous()


def channel_statistics(folder: LatentFolder, key: str, objects: int) -> dict[str, list[float]]:
    """Mean and deviation of each channel over the tokens of all objects."""
    count, total, squares = 0, 0.0, 0.0
    for index in range(objects):
        latent = read_tensors(folder.path(index))[key].double()
        count, total, squares = count + len(latent), total + latent.sum(0), squares + latent.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
    return {"mean": mean.tolist(), "std": deviation.tolist()}

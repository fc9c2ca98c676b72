"""Latents of the flows' objects: encoded once by the trained VAEs, kept in a folder, with their statistics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import Normalization
from ..models.shape_vae import dual_grid_features
from ..models.texture_vae import field_features
from ..weights import read_tensors, save_weights
from .data import in_order
from .distributed import Team
from .examples import Example
from .recipe import DataConfig
from .vaes import occupancy, voxels_to

STATISTICS = "statistics.json"
ENCODERS = ("sparse_structure_encoder", "shape_slat_encoder", "tex_slat_encoder")


@dataclass(frozen=True, eq=False)
class LatentExample:
    """One object as the flows see it; the latents are the encoders' means, not normalised.

    coords: [T, 3] int32.  shape, texture: [T, C] float32.  structure: [C, R, R, R] float32.
    images: [V, S, S, 3] uint8, as in Example.
    """

    coords: Tensor
    shape: Tensor
    texture: Tensor
    structure: Tensor
    images: Tensor


@dataclass(frozen=True)
class LatentFolder:
    """The encoded objects of a run. Called with an index, it gives that object."""

    folder: Path

    def __call__(self, index: int) -> LatentExample:
        tensors = read_tensors(self.path(index))
        del tensors["encoders"]
        return LatentExample(**tensors)

    def path(self, index: int) -> Path:
        """The file of an object."""
        return self.folder / f"{index:08d}.safetensors"

    def holds(self, index: int, encoders: Sequence[int]) -> bool:
        """Whether the object is there, encoded by networks of this fingerprint."""
        path = self.path(index)
        return path.exists() and read_tensors(path)["encoders"].tolist() == list(encoders)

    def statistics(self) -> Mapping[str, Normalization] | None:
        """Of the "shape" and the "texture" latents, once all objects are encoded."""
        path = self.folder / STATISTICS
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        return {key: Normalization(mean=tuple(data[key]["mean"]), std=tuple(data[key]["std"])) for key in SLATS}


SLATS = ("shape", "texture")


def encode_objects(
    encoders: Mapping[str, nn.Module],
    make: Callable[[int], Example],
    data: DataConfig,
    folder: LatentFolder,
    team: Team,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Encode the objects that are not in the folder yet, each card its share, and write the statistics.

    encoders: the networks of ENCODERS, on the team's device. Goes on after a kill. Latents that other encoders made
    are made again.
    """
    made_by = fingerprint(encoders)
    mine = range(team.card, data.objects, team.cards)
    missing = [index for index in mine if not folder.holds(index, made_by)]
    for done, (index, example) in enumerate(zip(missing, in_order(make, missing, data.workers), strict=True)):
        latent = encode(encoders, example, data.structure, team.device)
        save_weights({**vars(latent), "encoders": torch.tensor(made_by, dtype=torch.uint8)}, folder.path(index))
        if progress is not None:
            progress((done + 1) / len(missing))
    team.barrier()
    if team.leads:
        statistics = {key: channel_statistics(folder, key, data.objects) for key in SLATS}
        (folder.folder / STATISTICS).write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")
    team.barrier()


@torch.no_grad()
def encode(
    encoders: Mapping[str, nn.Module], example: Example, structure_side: int, device: torch.device
) -> LatentExample:
    """One object's latents, on the CPU. structure_side: voxels a side of the structure's grid."""
    structure, shape, texture = (encoders[role] for role in ENCODERS)
    voxels = voxels_to(example.voxels, device)
    shape_latent = shape(dual_grid_features([voxels.dual_grid])).mean
    texture_latent = texture(field_features([voxels.field])).mean
    grid = occupancy([example.voxels.dual_grid], structure_side)
    mean, _ = structure(grid.to(device))
    latents = (shape_latent.coords.voxels, shape_latent.feats, texture_latent.feats, mean[0])
    return LatentExample(*(latent.cpu() for latent in latents), example.images)


def fingerprint(encoders: Mapping[str, nn.Module]) -> list[int]:
    """8 bytes that tell these weights from others."""
    digest = hashlib.sha256()
    for role in ENCODERS:
        for parameter in encoders[role].state_dict().values():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return list(digest.digest()[:8])


def channel_statistics(folder: LatentFolder, key: str, objects: int) -> dict[str, list[float]]:
    """Mean and deviation of each channel over the tokens of all objects."""
    count, total, squares = 0, 0.0, 0.0
    for index in range(objects):
        latent = read_tensors(folder.path(index))[key].double()
        count, total, squares = count + len(latent), total + latent.sum(0), squares + latent.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
    return {"mean": mean.tolist(), "std": deviation.tolist()}

"""Latents of the dataset's objects in a folder of the run, with their per-channel statistics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ....o_voxel.core.atomic_io import write_files
from ...checkpoint.config import Normalization
from ...checkpoint.weights import read_metadata, read_tensors, save_weights

STATISTICS = "statistics.json"
# Latent -> role of the encoder that makes it.
ENCODERS = {"structure": "sparse_structure_encoder", "shape": "shape_slat_encoder", "texture": "tex_slat_encoder"}
SUPPORT = "support"  # beside a structure: points that say how a picture of the object was cropped
SLATS = ("shape", "texture")  # structured latents: tokens on voxels, normalised with the statistics in pipeline.json


@dataclass(frozen=True, eq=False)
class LatentSample:
    """One object as the flows see it.

    latents: the encoders' means by name, not normalised, fp32: "structure" [C, R, R, R], with "support" [P, 3], see
    `projection.framing.support`; "shape" and "texture" [T, C], on the voxels "coords" [T, 3] int32.  images: [V, S, S,
    3] uint8, cameras: [V, 3] fp32, as in Sample.
    """

    latents: Mapping[str, Tensor]
    images: Tensor
    cameras: Tensor


@dataclass(frozen=True)
class LatentFolder:
    """Encoded objects of a run. Called with an index, it returns that object's LatentSample."""

    folder: Path

    @classmethod
    def of(cls, run: Path, names: Sequence[str], resolution: int) -> LatentFolder:
        """The folder of a run for these latents of voxels of this resolution."""
        return cls(run / f"latents_{resolution}" / "_".join(names))

    def __call__(self, index: int) -> LatentSample:
        tensors = read_tensors(self.path(index))
        return LatentSample(tensors, tensors.pop("images"), tensors.pop("cameras"))

    def path(self, index: int) -> Path:
        """The file of an object."""
        return self.folder / f"{index:08d}.safetensors"

    def write(self, index: int, sample: LatentSample, encoders: str, source: str) -> None:
        """Write an object's file, with the fingerprints of the encoders and of the dataset's source."""
        metadata = {"encoders": encoders, "source": source}
        save_weights({**sample.latents, "images": sample.images, "cameras": sample.cameras}, self.path(index), metadata)

    def holds(self, index: int, encoders: str, source: str) -> bool:
        """True if the object has been encoded from this source by encoders of this fingerprint."""
        path = self.path(index)
        if not path.exists():
            return False
        metadata = read_metadata(path)
        return metadata.get("encoders") == encoders and metadata.get("source") == source

    def has_statistics(self, encoders: str) -> bool:
        """True if statistics of latents by encoders of this fingerprint have been written."""
        path = self.folder / STATISTICS
        return path.exists() and json.loads(path.read_text(encoding="utf-8")).get("encoders") == encoders

    def write_statistics(self, latents: Mapping[str, Iterable[Tensor]], encoders: str) -> None:
        """Compute the statistics of each of SLATS over its latents of some objects and write them."""
        statistics = {key: channel_statistics(latents[key]) for key in SLATS}
        text = json.dumps({"encoders": encoders, **statistics}, indent=1)
        write_files({self.folder / STATISTICS: f"{text}\n".encode()})

    def read(self, name: str, objects: int) -> Iterator[Tensor]:
        """The latents `name` of the first `objects` objects."""
        return (read_tensors(self.path(index))[name] for index in range(objects))

    def statistics(self) -> Mapping[str, Normalization] | None:
        """Mean and standard deviation of each channel of SLATS; None before all objects are encoded."""
        path = self.folder / STATISTICS
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        return {key: Normalization(mean=tuple(data[key]["mean"]), std=tuple(data[key]["std"])) for key in SLATS}


def channel_statistics(latents: Iterable[Tensor]) -> dict[str, list[float]]:
    """{"mean": C numbers, "std": C numbers} over the tokens of latents [T, C], accumulated in fp64."""
    count, total, squares = 0, 0.0, 0.0
    for latent in latents:
        latent = latent.double()
        count, total, squares = count + len(latent), total + latent.sum(0), squares + latent.square().sum(0)
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(1e-8).sqrt()
    return {"mean": mean.tolist(), "std": deviation.tolist()}

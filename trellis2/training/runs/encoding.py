"""Encoding of the dataset by the trained VAEs: the latents that the flows learn from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ....o_voxel.core.grid import Grid
from ....o_voxel.core.progress import Progress
from ....o_voxel.values import OVoxel
from ...models.shape_vae import dual_grid_features
from ...models.texture_vae import field_features
from ...projection.framing import support
from ...sparse import SparseTensor
from ..data.batches import Batch, Item, occupancy, pack_voxels, to_device, unpack_voxels
from ..data.dataset import Sample
from ..data.latents import SLATS, SUPPORT, LatentFolder, LatentSample
from ..data.stream import map_in_order
from ..loop.compilation import TRACING
from ..loop.distributed import DistributedContext
from ..loop.trainer import precision
from ..recipe import DataConfig

log = logging.getLogger(__name__)

BATCH = {"structure": 64, "shape": 2, "texture": 2}  # objects in one forward pass of an encoder


@dataclass(frozen=True, eq=False)
class EncodingSet:
    """The objects to encode: make(index) returns a Sample, for indices from 0 to objects - 1.

    fingerprint: of the source that `make` reads; see `examples.Source`.
    """

    make: Callable[[int], Sample]
    objects: int
    fingerprint: str


def encode_objects(
    encoders: Mapping[str, nn.Module],
    dataset: EncodingSet,
    data: DataConfig,
    folder: LatentFolder,
    context: DistributedContext,
    on_progress: Progress | None = None,
) -> None:
    """Encode the objects that the folder does not hold, divided among the ranks, and write the statistics.

    encoders: by name of their latent (see ENCODERS), on the context's device.  on_progress(fraction of this rank).
    An interrupted call is continued by the next one. Latents by other encoders or of another source are replaced.
    Statistics are those of the first stage that used these encoders: flows trained with them depend on them.
    """
    made_by = fingerprint(encoders)
    mine = range(context.rank, dataset.objects, context.world_size)
    missing = [index for index in mine if not folder.holds(index, made_by, dataset.fingerprint)]
    stale = sum(folder.path(index).exists() for index in missing)
    if stale:
        log.warning("%s: %d objects of other encoders or another source are encoded again", folder.folder, stale)
    for done, (index, sample) in enumerate(encoded(encoders, dataset.make, missing, data, context.device)):
        folder.write(index, sample, made_by, dataset.fingerprint)
        if on_progress is not None:
            on_progress((done + 1) / len(missing))
    context.barrier()
    if context.is_main and set(SLATS) <= set(encoders) and not folder.has_statistics(made_by):
        folder.write_statistics({key: folder.read(key, dataset.objects) for key in SLATS}, made_by)
    context.barrier()


def encoded(
    encoders: Mapping[str, nn.Module],
    make: Callable[[int], Sample],
    indices: Sequence[int],
    data: DataConfig,
    device: torch.device,
) -> Iterator[tuple[int, LatentSample]]:
    """Objects (index, latents), made by data.workers processes and encoded on `device` as they arrive."""
    collate = partial(collate_objects, tuple(encoders), data.structure)
    size = min(BATCH[name] for name in encoders)
    numbers = iter(indices)
    for batch in map_in_order(make, indices, data.workers, collate, size):
        for sample in encode(encoders, batch, device):
            yield next(numbers), sample


def collate_objects(names: Sequence[str], structure_side: int, items: Sequence[Item]) -> Batch:
    """The inputs of the encoders of the latents `names`, for B objects.

    Returns images [B, V, S, S, 3] uint8 and cameras [B, V, 3] fp32; for "structure" occupied [B, 1, R, R, R] bool with
    R = structure_side and support [B, P, 3] fp32; for "shape" and "texture" the tensors of `pack_voxels`.
    """
    samples: list[Sample] = [sample for sample, _ in items]
    batch: Batch = {name: torch.stack([getattr(sample, name) for sample in samples]) for name in ("images", "cameras")}
    if "structure" in names:
        occupied = occupancy([sample.voxels.dual_grid for sample in samples], structure_side).bool()
        centers = [Grid.cube(structure_side).centers(cells[0].nonzero()) for cells in occupied]
        batch |= {"occupied": occupied, SUPPORT: torch.stack([support(points) for points in centers])}
    if set(names) & set(SLATS):
        batch |= pack_voxels([sample.voxels for sample in samples])
    return batch


@torch.no_grad()
def encode(encoders: Mapping[str, nn.Module], batch: Batch, device: torch.device) -> list[LatentSample]:
    """Encode a batch by `collate_objects` on `device`, in bf16 on a GPU as in training; the B samples are on the
    CPU. A thread may do so while another one trains."""
    with TRACING, precision(device):
        return _encode(encoders, batch, device)


def _encode(encoders: Mapping[str, nn.Module], batch: Batch, device: torch.device) -> list[LatentSample]:
    images, cameras, inputs = batch["images"], batch["cameras"], to_device(batch, device)
    found: list[dict[str, Tensor]] = [{} for _ in images]
    if "structure" in encoders:
        _assign(found, "structure", encoders["structure"](inputs["occupied"].float())[0])
        _assign(found, SUPPORT, batch[SUPPORT])
    slats = [name for name in SLATS if name in encoders]
    objects = unpack_voxels(inputs) if slats else []
    for name in slats:
        mean = encoders[name](_features(name, objects)).mean
        _assign(found, name, mean.feats.split(mean.coords.lengths))
    if slats:  # both structured latents have the same voxels
        _assign(found, "coords", mean.coords.voxels.split(mean.coords.lengths))
    return [LatentSample(*parts) for parts in zip(found, images, cameras, strict=True)]


def fingerprint(encoders: Mapping[str, nn.Module]) -> str:
    """16 hexadecimal digits of the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name in sorted(encoders):
        for parameter in encoders[name].state_dict().values():
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _features(name: str, objects: Sequence[OVoxel]) -> SparseTensor:
    """The input of the encoder of a structured latent."""
    if name == "shape":
        return dual_grid_features([voxels.dual_grid for voxels in objects])
    return field_features([voxels.field for voxels in objects])


def _assign(objects: list[dict[str, Tensor]], name: str, values: Iterable[Tensor]) -> None:
    for latents, value in zip(objects, values, strict=True):
        # Coordinates keep their dtype; latents are in bf16 where the encoder's last layer was.
        latents[name] = (value.float() if value.is_floating_point() else value).cpu().contiguous()

"""One card computes what another does, and uses no other: a picture to a finished asset on each of two."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.asset import AssetOptions, make_asset
from comfyui_trellis2.trellis2.checkpoint.builtin import built_in
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded, OneAtATime
from comfyui_trellis2.trellis2.runtime.streaming import Streamed
from PIL import Image

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")

OPTIONS = AssetOptions(faces=2000, texture_size=256)
RESIDENCIES = {"loaded": KeepLoaded, "one": OneAtATime, "streamed": lambda device: Streamed(device, 0)}


def leaves(value: object) -> Iterator[object]:
    """All tensors, pictures and plain values inside, tensors on the CPU."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from leaves(part)
    elif isinstance(value, torch.Tensor):
        yield value.cpu().contiguous().numpy().tobytes()
    else:
        yield value.tobytes() if isinstance(value, np.ndarray | Image.Image) else value


@pytest.mark.parametrize("residency", RESIDENCIES)
@pytest.mark.parametrize("checkpoint", ["tiny", "mini"])
def test_every_card_generates_the_same_bytes(tiny, checkpoint, residency):
    """Four steps: as they are, recorded, and replayed. The current device is the other card at times."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    source = str(tiny if checkpoint == "tiny" else built_in())
    made = {}
    for current, device in ((0, "cuda:1"), (0, "cuda:0"), (1, "cuda:0")):
        idle = 1 - torch.device(device).index
        with torch.cuda.device(current):
            torch.cuda.reset_peak_memory_stats(idle)
            before = torch.cuda.memory_allocated(idle)
            pipeline = Pipeline.load(source, RESIDENCIES[residency](device))
            (asset,) = pipeline.run([[Image.fromarray(pixels)]], pipeline_type="512", seed=5, steps=4)
            assert asset.mesh.vertices.device == torch.device(device)
            made[current, device] = list(leaves(asset))
            if checkpoint == "mini":  # what random networks make has no charts to speak of
                made[current, device] += leaves(make_asset(asset.mesh, asset.field, OPTIONS))
            assert torch.cuda.max_memory_allocated(idle) == before
            pipeline.unload()
    first = made.pop((0, "cuda:1"))
    assert len(first) > 5
    assert all(other == first for other in made.values())

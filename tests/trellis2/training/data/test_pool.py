"""The dataset in memory: numbers belong to their object, batches are those of files, and a pool grows as it is read."""

import threading

import pytest
import torch
from comfyui_trellis2.trellis2.training.data.draws import mixed_seeds, normal, packed_normal, uniform
from comfyui_trellis2.trellis2.training.data.latents import LatentFolder, LatentSample
from comfyui_trellis2.trellis2.training.data.pool import LatentPool, PoolStream, place_of, read_pool
from comfyui_trellis2.trellis2.training.data.stream import Stream
from comfyui_trellis2.trellis2.training.recipe import StageConfig
from comfyui_trellis2.trellis2.training.tasks import TASKS

CPU = torch.device("cpu")
STAGE = StageConfig(task="texture_flow", steps=1, batch=1, learning_rate=1.0, resolution=512)


def latent_object(index: int) -> LatentSample:
    """An object with index + 3 tokens, whose pictures and cameras tell which they are."""
    tokens = index + 3
    coords = torch.cartesian_prod(*[torch.arange(4, dtype=torch.int32)] * 3)[:tokens]
    latents = {"coords": coords, "shape": torch.full((tokens, 2), float(index)), "texture": torch.randn(tokens, 2)}
    images = (
        torch.full((2, 8, 8, 3), index, dtype=torch.uint8)
        + torch.tensor([0, 100], dtype=torch.uint8)[:, None, None, None]
    )
    return LatentSample(latents, images, torch.tensor([[0.0, 20.0, 30.0], [0.0, 40.0, 50.0]]))


def test_numbers_are_even_and_normal():
    seeds = mixed_seeds(3, "stage", range(64))
    assert len(set(seeds.tolist())) == 64 and int(seeds.min()) >= 0
    flat, bell = uniform(seeds, 1, 2000), normal(seeds, 2, 2000)
    assert float(flat.min()) >= 0 and float(flat.max()) < 1
    assert flat.mean().item() == pytest.approx(0.5, abs=3e-3) and flat.var().item() == pytest.approx(1 / 12, abs=1e-3)
    assert bell.mean().item() == pytest.approx(0, abs=0.01) and bell.std().item() == pytest.approx(1, abs=0.01)
    assert bell.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    # Neither objects, counters nor streams go together.
    for first, second in ((bell[:-1], bell[1:]), (bell[:, :-1], bell[:, 1:]), (bell, normal(seeds, 3, 2000))):
        assert abs(float((first * second).mean())) < 0.01


def test_numbers_belong_to_their_object():
    seeds, item = torch.tensor([5, 9]), torch.tensor([0, 0, 0, 1, 1])
    both = packed_normal(seeds, 0, item, 4)
    assert torch.equal(both[3:], packed_normal(seeds[1:], 0, torch.zeros(2, dtype=torch.int64), 4))
    assert torch.equal(both[:3].flatten(), normal(seeds[:1], 0, 12)[0])


def batches(pool: LatentPool, first: int, positions):
    kind = TASKS["texture_flow"]
    return PoolStream(pool, first, 1, "x").batches(positions, kind.latents, kind.drawn, STAGE, CPU)


def test_a_whole_pool_is_read_like_files(tmp_path):
    folder = LatentFolder(tmp_path)
    for index in range(5):
        folder.write(index, latent_object(index), "encoders", "source")
    pool = read_pool(folder, 5, CPU)
    stream = Stream(lambda index: index, 5, 1, "x")
    for group, batch in zip([[0, 1, 2], [3, 4, 5]], batches(pool, 5, [[0, 1, 2], [3, 4, 5]]), strict=True):
        rows = [stream[position][0] for position in group]
        assert batch["lengths"] == tuple(row + 3 for row in rows)
        assert [int(part[0, 0]) for part in batch["shape"].split(batch["lengths"])] == rows
        assert [int(image[0, 0, 0]) % 100 for image in batch["images"]] == rows
        assert batch["noise"].shape == batch["texture"].shape and batch["cameras"].shape == (3, 3)


def test_a_pool_grows_under_its_reader():
    release, pool = threading.Event(), LatentPool(6, CPU)

    def made():
        for index in (1, 0, 2, 3, 4, 5):
            if index == 2:
                assert release.wait(20)
            yield index, latent_object(index)

    thread = pool.fill(made())
    read = batches(pool, 2, [[k, k + 1] for k in range(0, 40, 2)])
    early = [next(read) for _ in range(8)]
    assert pool.count == 2 and {length - 3 for batch in early for length in batch["lengths"]} == {0, 1}
    release.set()
    thread.join(20)
    late = [next(read) for _ in range(6)]
    assert {length - 3 for batch in late for length in batch["lengths"]} == set(range(6))


def test_what_ends_the_making_ends_the_reading():
    def made():
        yield 0, latent_object(0)
        raise ValueError("no object")

    pool = LatentPool(3, CPU)
    pool.fill(made())
    with pytest.raises(ValueError, match="no object"):
        next(batches(pool, 3, [[0]]))


def test_a_pool_goes_where_there_is_room():
    assert place_of(1, CPU) == CPU
    assert place_of(1 << 60, CPU) is None


@pytest.mark.gpu  # compares a CUDA device with the CPU
def test_a_card_draws_and_gathers_what_the_cpu_does():
    cuda = torch.device("cuda")
    pools = [LatentPool(4, device) for device in (CPU, cuda)]
    for index in range(4):
        sample = latent_object(index)
        for pool in pools:
            pool.add(index, sample)
    kind = TASKS["texture_flow"]
    ours, theirs = (
        next(PoolStream(pool, 4, 1, "x").batches([[0, 1, 2]], kind.latents, kind.drawn, STAGE, device))
        for pool, device in zip(pools, (CPU, cuda), strict=True)
    )
    assert theirs["noise"].is_cuda and theirs["lengths"] == ours["lengths"]
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(theirs[name].cpu(), value, atol=1e-5, rtol=1e-5)

"""Decoding in parts: what it gives is what the whole gives, to the bit with the kernels, to rounding without them."""

import json
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint import config
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.models import build_model, chunked, sparse_vae
from comfyui_trellis2.trellis2.runtime.memory import device_memory
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor, with_halo

PUBLISHED = json.loads(Path(config.__file__).with_name("published.json").read_text())
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = 0 if DEVICE == "cuda" else 1e-5
SIZES = (1, 2, 40)


def voxels(n, top=4, seed=0):
    cells = torch.cartesian_prod(*[torch.arange(top, dtype=torch.int32)] * 3)
    return cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(seed))[:n].sort().values]


@pytest.fixture(scope="module")
def decoders():
    """The published decoders, narrow and shallow, with random weights: (shape, texture)."""
    found = []
    for role in ("shape_slat_decoder", "tex_slat_decoder"):
        description = PUBLISHED["models"][role]
        narrow = {"model_channels": [32, 32, 16, 16, 8], "num_blocks": [1, 1, 1, 1, 0]}
        description = description | {"args": description["args"] | narrow}
        dtype = "float16" if DEVICE == "cuda" else "float32"
        model = build_model(description, role, dtype=dtype, device="cpu")
        randomize(model, torch.Generator().manual_seed(3))
        found.append(model.to(DEVICE))
    return found


def latent(n, channels=32):
    """Two objects, one of them empty when n is 1."""
    coords = CoordSet.from_items([voxels(n - n // 3).to(DEVICE), voxels(n // 3, seed=1).to(DEVICE)])
    return SparseTensor(torch.randn(n, channels, generator=torch.Generator().manual_seed(n)).to(DEVICE), coords)


def assert_same(ours, expected):
    torch.testing.assert_close(ours.feats, expected.feats, atol=ROUNDING, rtol=0)
    assert torch.equal(ours.coords.rows, expected.coords.rows)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 101 voxels for the smallest budget: many borders, an odd rest."""
    monkeypatch.setattr(sparse_vae, "PART_ROWS", 101)


@pytest.mark.slow
@pytest.mark.parametrize("n", SIZES)
def test_a_decode_in_parts_is_the_whole(decoders, small_parts, n):
    shape, texture = decoders
    whole = shape(latent(n), memory_budget=2**40)
    parts = shape(latent(n), memory_budget=1)
    assert n == 1 or len(whole.output.coords) > 3 * 101
    assert_same(parts.output, whole.output)
    colored = texture(latent(n), whole.subdivisions, memory_budget=2**40)
    assert_same(texture(latent(n), parts.subdivisions, memory_budget=1).output, colored.output)
    # The parts made no map of all fine voxels, the whole did.
    held = ["neighbors" in decoded.subdivisions[-1].fine._derived for decoded in (whole, parts)]
    assert held == [True, False]


def test_a_guide_whose_voxels_are_in_another_order(decoders, small_parts):
    """An encoder's subdivisions: fine voxels as they came, not those of one parent after the other."""
    _, texture = decoders
    coords, guide = CoordSet.from_items([voxels(900, top=32, seed=4).to(DEVICE)]), []
    while len(guide) < 4:
        guide.insert(0, (coords if not guide else guide[0].coarse).coarsen())
    z = SparseTensor(latent(len(guide[0].coarse)).feats, guide[0].coarse)
    assert_same(texture(z, guide, memory_budget=1).output, texture(z, guide, memory_budget=2**40).output)


@pytest.mark.slow
def test_progress_moves_with_the_parts(decoders, small_parts):
    fractions = []
    decoded = decoders[0](latent(40), progress=fractions.append, memory_budget=1)
    assert fractions == sorted(set(fractions)) and fractions[-1] == 1
    assert len(fractions) == 7 + -(-len(decoded.output.coords) // 101)


@pytest.mark.slow
def test_where_memory_runs_out_the_finest_level_is_decoded_again_in_smaller_parts(decoders, small_parts, monkeypatch):
    shape, _ = decoders
    whole, finest, seen = shape(latent(40), memory_budget=2**40), type(shape)._finest, []

    def scarce(self, block, x, subdivision, budget, report):
        seen.append(budget)
        if len(seen) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return finest(self, block, x, subdivision, 1, report)

    monkeypatch.setattr(type(shape), "_finest", scarce)
    assert_same(shape(latent(40)).output, whole.output)
    assert seen[0] is None
    assert seen[1] < device_memory(torch.device(DEVICE)).free / 10
    assert len(seen) == 2


def test_a_budget_sets_the_rows_of_a_part(decoders):
    feats = torch.empty(0, 16, dtype=torch.float16)
    voxel = sparse_vae.PART_VOXEL_BYTES + 2 * 8 * 2
    sizes = [decoders[0]._part_rows(feats, budget) for budget in (0, voxel * 2**18, voxel * 2**20 + 1)]
    assert sizes == [2**18, 2**18, 2**20]
    assert decoders[0]._part_rows(feats, None) % 2**18 == 0


@pytest.mark.parametrize("start, stop", [(0, 1), (0, 700), (13, 600), (699, 700), (5, 5)])
def test_a_part_holds_its_neighbours(start, stop):
    coords = CoordSet.from_items([voxels(700, top=10)])
    part, whole = with_halo(coords, start, stop), coords.neighbors()[start:stop]
    rows = part.extend(torch.arange(700))
    assert rows[: stop - start].tolist() == list(range(start, stop))
    assert len(rows.unique()) == len(rows)
    assert torch.equal(torch.where(whole < 0, -1, rows[part.neighbors.long()].to(torch.int32)), whole)
    assert set(part.halo.tolist()) == set(whole[whole >= 0].tolist()) - set(range(start, stop))


# Row by row


@pytest.mark.parametrize("n", [0, 1, 10, 11, 39, 40])
def test_chunked_is_the_whole(n):
    x, y = torch.randn(n, 3), torch.randn(n, 2)
    kept, calls = x.clone(), []

    def work(x, y, out):
        calls.append(len(x))
        return torch.cat([x * 2, y], 1, out=out)

    assert torch.equal(chunked.chunked(work, None, x, y, rows=10), torch.cat([kept * 2, y], 1))
    assert max(calls) <= 10 and sum(calls) == n and torch.equal(x, kept)
    assert torch.equal(chunked.chunked(torch.neg, x, x, rows=10), -kept)


def test_chunked_leaves_gradients_whole():
    x, weight = torch.randn(35, 3), torch.ones(3, requires_grad=True)
    kept = x.clone()
    chunked.chunked(lambda x, out: torch.mul(x, weight, out=out), x, x, rows=10).sum().backward()
    torch.testing.assert_close(weight.grad, kept.sum(0))
    assert torch.equal(x, kept)


def test_rows_are_equal_shares_of_what_the_width_allows():
    assert [chunked.chunk_size(10**6, width) for width in (1, 1024, 1025, 2**40)] == [10**6, 250_000, 250_000, 16_130]
    assert [chunked.chunk_size(n, 2**40) for n in (0, 1, 16_384, 16_385, 2**15 + 2)] == [0, 1, 16_384, 8193, 10_924]

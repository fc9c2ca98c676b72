"""Voxel sets, what is derived from them, and the tensors on them."""

import dataclasses

import pytest
import torch
from comfyui_trellis2.trellis2.sparse import CoordSet, PackedSequences, SparseTensor, spatial_to_channel

SIZES = (0, 1, 63, 1000)

sizes = pytest.mark.parametrize("n", SIZES)


def voxels(n, seed=0, top=16):
    """n voxels of a grid in no order."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(*[torch.arange(top, dtype=torch.int32)] * 3)
    return cells[torch.randperm(len(cells), generator=generator)[:n]]


def batch(n):
    """Three items: n voxels, none, and about half of n."""
    return CoordSet.from_items([voxels(n, 1), voxels(0), voxels((n + 1) // 2, 2)])


def features(coords, channels=5):
    return torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(3))


@sizes
def test_from_items(n):
    coords = batch(n)
    assert coords.lengths == (n, 0, (n + 1) // 2)
    assert len(coords) == sum(coords.lengths)
    assert coords.batch_size == 3
    assert coords.rows.dtype == torch.int32
    expected = [[0, *v] for v in voxels(n, 1).tolist()] + [[2, *v] for v in voxels((n + 1) // 2, 2).tolist()]
    assert coords.rows.tolist() == expected
    assert torch.equal(coords.voxels, coords.rows[:, 1:])
    assert torch.equal(coords.item, coords.rows[:, 0].long())
    assert CoordSet.from_items([voxels(n)]).item is None


def test_malformed():
    rows = batch(63).rows
    with pytest.raises(ValueError, match=r"CoordSet\.lengths: expected a sum of 95, got \[63, 31\]"):
        CoordSet(rows, [63, 31])
    with pytest.raises(ValueError, match=r"CoordSet\.rows: expected int32, got int64"):
        CoordSet(rows.long(), [95])
    with pytest.raises(TypeError, match=r"CoordSet\.rows: expected a torch\.Tensor, got list"):
        CoordSet(rows.tolist(), [95])
    with pytest.raises(ValueError, match=r"items\[1\]: expected shape \[\*, 3\], got \[95, 4\]"):
        CoordSet.from_items([voxels(1), rows])
    with pytest.raises(ValueError, match=r"mask: expected shape \[95, 8\], got \[94, 8\]"):
        batch(63).subdivide(torch.zeros(94, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask: expected bool, got float32"):
        batch(63).subdivide(torch.zeros(95, 8))
    with pytest.raises(ValueError, match=r"SparseTensor\.feats: expected shape \[95, \*\], got \[94, 5\]"):
        SparseTensor(torch.zeros(94, 5), batch(63))
    with pytest.raises(ValueError, match=r"PackedSequences\.feats: expected shape \[7, \*\], got \[8, 5\]"):
        PackedSequences(torch.zeros(8, 5), (3, 4))


def test_what_is_derived_is_made_once_and_by_identity():
    coords, equal = batch(63), batch(63)
    for derive in (CoordSet.index, CoordSet.neighbors, CoordSet.coarsen, lambda c: c.item):
        assert derive(coords) is derive(coords)
        assert derive(coords) is not derive(equal)
    calls = []
    for _ in range(3):
        assert coords.derive("mine", lambda: calls.append(1) or "made") == "made"
    assert calls == [1]


def test_tensors_on_one_set_share_what_is_derived():
    x = SparseTensor(features(batch(63)), batch(63))
    assert x.replace(x.feats * 2).coords is x.coords
    assert x.replace(x.feats * 2).coords.neighbors() is x.coords.neighbors()


@sizes
def test_coarsen(n):
    coords = batch(n)
    split = coords.coarsen()
    expected = sorted({(b, x // 2, y // 2, z // 2) for b, x, y, z in coords.rows.tolist()})
    assert split.fine is coords
    assert split.coarse.rows.tolist() == [list(row) for row in expected]
    assert split.coarse.batch_size == 3
    assert split.coarse.lengths == tuple(sum(row[0] == item for row in expected) for item in range(3))
    for (b, x, y, z), parent, child in zip(
        coords.rows.tolist(), split.parent.tolist(), split.child.tolist(), strict=True
    ):
        assert expected[parent] == (b, x // 2, y // 2, z // 2)
        assert child == x % 2 + 2 * (y % 2) + 4 * (z % 2)


@sizes
def test_subdivide(n):
    coords = batch(n)
    mask = torch.rand(len(coords), 8, generator=torch.Generator().manual_seed(4)) < 0.4
    split = coords.subdivide(mask)
    expected = [
        [b, 2 * x + (s & 1), 2 * y + (s >> 1 & 1), 2 * z + (s >> 2 & 1)]
        for (b, x, y, z), chosen in zip(coords.rows.tolist(), mask.tolist(), strict=True)
        for s in range(8)
        if chosen[s]
    ]
    assert split.coarse is coords
    assert split.fine.rows.tolist() == expected
    assert split.fine.rows.dtype == torch.int32
    assert split.fine.lengths == tuple(sum(row[0] == item for row in expected) for item in range(3))
    assert torch.equal(split.mask(), mask)


@sizes
def test_subdivide_undoes_coarsen_and_the_other_way_round(n):
    coords = batch(n)
    down = coords.coarsen()
    again = down.coarse.subdivide(down.mask())
    assert sorted(again.fine.rows.tolist()) == sorted(coords.rows.tolist())
    assert again.fine.lengths == coords.lengths
    up = again.fine.coarsen()
    assert torch.equal(up.coarse.rows, down.coarse.rows)
    assert torch.equal(up.parent, again.parent)
    assert torch.equal(up.child, again.child)


def test_no_children():
    split = batch(63).subdivide(torch.zeros(95, 8, dtype=torch.bool))
    assert split.fine.lengths == (0, 0, 0)
    assert split.fine.coarsen().coarse.lengths == (0, 0, 0)
    assert split.fine.neighbors().shape == (0, 27)


@sizes
def test_spatial_to_channel(n):
    coords = batch(n)
    split = coords.coarsen()
    x = SparseTensor(features(coords), coords)
    before = x.feats.clone()
    packed = spatial_to_channel(x, split)
    assert packed.coords is split.coarse
    wanted = torch.zeros(len(split.coarse), 40)
    for row, parent, child in zip(x.feats, split.parent.tolist(), split.child.tolist(), strict=True):
        wanted[parent, child * 5 : child * 5 + 5] = row
    assert torch.equal(packed.feats, wanted)
    assert torch.equal(x.feats, before)


def test_to():
    coords = batch(63)
    assert coords.to("cpu") is coords
    moved = coords.to("meta")
    assert moved is not coords
    assert moved.device == torch.device("meta")
    assert coords.device == torch.device("cpu")
    assert moved.lengths == coords.lengths
    x = SparseTensor(features(coords), coords)
    assert x.to("cpu").coords is coords
    there = x.to("meta")
    assert there.feats.device == there.coords.device == torch.device("meta")
    assert x.feats.device == torch.device("cpu")


def test_same_voxels():
    coords = batch(63)
    assert coords.same_voxels(coords)
    assert coords.same_voxels(batch(63))
    assert not coords.same_voxels(batch(62))
    assert not coords.same_voxels(CoordSet(coords.rows, [*coords.lengths, 0]))
    assert not coords.same_voxels(CoordSet(coords.rows + torch.tensor([0, 0, 0, 1], dtype=torch.int32), coords.lengths))


def test_items_and_from_items():
    coords = batch(63)
    x = SparseTensor(features(coords), coords)
    items = x.items()
    assert [len(feats) for _, feats in items] == list(coords.lengths)
    again = SparseTensor.from_items(items)
    assert again.coords.same_voxels(coords)
    assert torch.equal(again.feats, x.feats)


def test_sparse_tensors_are_immutable():
    x = SparseTensor(features(batch(63)), batch(63))
    sequences = PackedSequences(torch.zeros(7, 5), (3, 4))
    for value, name in ((x, "feats"), (x, "coords"), (sequences, "feats"), (sequences, "lengths"), (x, "other")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
    before = x.feats
    changed = x.replace(torch.ones_like(x.feats))
    assert changed is not x
    assert x.feats is before
    split = x.coords.coarsen()
    for name in ("coarse", "fine", "parent", "child"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(split, name, None)


def test_sequences():
    items = [torch.full((n, 2), float(n)) for n in (3, 0, 2)]
    sequences = PackedSequences.from_items(items)
    assert sequences.lengths == (3, 0, 2)
    assert torch.equal(sequences.feats, torch.cat(items))
    stacked = torch.randn(4, 7, 2, generator=torch.Generator().manual_seed(0))
    assert PackedSequences.from_items(stacked).lengths == (7,) * 4
    assert torch.equal(PackedSequences.from_items(stacked).feats, stacked.reshape(28, 2))
    assert sequences.replace(sequences.feats + 1).lengths == sequences.lengths

"""The stream: a position decides everything, whoever reads it and from where."""

from functools import partial

import pytest
import torch
from comfyui_trellis2.trellis2.training.data.batches import block_of
from comfyui_trellis2.trellis2.training.data.dataset import Source, cached, mesh_sample, open_cache, open_source
from comfyui_trellis2.trellis2.training.data.stream import (
    Positions,
    Stream,
    generators,
    make_loader,
    mixed_seed,
    packed_noise,
)

TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def taken(positions, count):
    return [batch for batch, _ in zip(positions, range(count), strict=False)]


def test_cards_and_parts_share_a_step():
    whole = taken(Positions(3, 8, 8), 2)
    assert whole == [list(range(24, 32)), list(range(32, 40))]
    cards = [taken(Positions(3, 8, 2, card, 2), 4) for card in range(2)]
    first = [position for card in cards for batch in card[:2] for position in batch]
    assert sorted(first) == whole[0] and all(len(batch) == 2 for card in cards for batch in card)


def test_a_batch_that_does_not_divide():
    with pytest.raises(ValueError, match="multiple of 2 cards x micro_batch 3, got 8"):
        Positions(0, 8, 3, 0, 2)


def test_an_epoch_has_every_object_once_and_the_next_another_order():
    stream = Stream(lambda index: index, 5, seed=1, salt="x")
    epochs = [[stream[epoch * 5 + k][0] for k in range(5)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]
    assert [Stream(lambda index: index, 0, 1, "x")[k][0] for k in (0, 7)] == [0, 7]


def test_seeds_differ_by_seed_stage_and_position():
    seeds = {mixed_seed(seed, salt, position) for seed in (0, 1) for salt in "ab" for position in range(100)}
    assert len(seeds) == 400 and all(0 <= seed < 2**63 for seed in seeds)


def test_the_loader_goes_on_where_a_run_stopped():
    stream, before = Stream(lambda index: index, 7, 0, "x"), torch.get_rng_state()
    read = [iter(make_loader(stream, Positions(start, 4, 2), list, workers=0)) for start in (0, 2)]
    whole = [next(read[0]) for _ in range(8)]
    assert [next(read[1]) for _ in range(4)] == whole[4:]
    assert torch.equal(before, torch.get_rng_state())


def test_noise_belongs_to_its_object():
    like = torch.zeros(1)
    both = packed_noise(generators([3, 9]), (4, 6), 2, like)
    torch.testing.assert_close(both[4:], packed_noise(generators([9]), (6,), 2, like))


def test_what_is_cached_is_read_back(source, tmp_path):
    size = {"resolution": 64, "image_size": 32, "views": 2}
    calls = []

    def counted_make(index, **given):
        calls.append(index)
        return source(index, **given)

    counted = Source(counted_make, "counted")

    made, again = (cached(counted, tmp_path, 1, **size) for _ in range(2))
    assert calls == [1] and len(list(tmp_path.rglob("*.safetensors"))) == 1 and not list(tmp_path.rglob("*.partial"))
    ours, theirs = again.voxels, made.voxels
    assert torch.equal(ours.dual_grid.coords, theirs.dual_grid.coords)
    assert torch.equal(ours.dual_grid.intersected, theirs.dual_grid.intersected)
    torch.testing.assert_close(ours.dual_grid.dual, theirs.dual_grid.dual, atol=1 / 2048, rtol=0)
    torch.testing.assert_close(ours.field.attrs, theirs.field.attrs.float(), atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(again.images, made.images)
    bare = cached(counted, tmp_path, 1, resolution=64, image_size=32, views=0)
    assert bare.images.shape == cached(counted, tmp_path, 1, resolution=64, image_size=32, views=0).images.shape


def test_a_cache_of_another_source_or_version_is_not_used(tmp_path, caplog, monkeypatch):
    meshes, cache = tmp_path / "meshes", tmp_path / "cache"
    meshes.mkdir()
    (meshes / "a.obj").write_text(TETRAHEDRON, encoding="utf-8")
    size = {"resolution": 32, "image_size": 16, "views": 1}

    def look():
        source = open_source(str(meshes))
        open_cache(source, cache)
        return cached(source, cache, 0, **size)

    first = look()
    assert torch.equal(look().voxels.dual_grid.coords, first.voxels.dual_grid.coords) and not caplog.messages
    (meshes / "a.obj").write_text(TETRAHEDRON.replace("v 0 0 1", "v 0 0 3"), encoding="utf-8")
    assert len(look().voxels.dual_grid.coords) < len(first.voxels.dual_grid.coords)
    assert len(caplog.messages) == 1 and "not used, made from another source" in caplog.text
    before = open_source("world").fingerprint
    monkeypatch.setattr("comfyui_trellis2.trellis2.training.world.WORLD_VERSION", -1)
    assert open_source("world").fingerprint != before


def test_textures_and_order_belong_to_a_source(tmp_path):
    (tmp_path / "a.obj").write_text(TETRAHEDRON, encoding="utf-8")
    found = [open_source(str(tmp_path)).fingerprint for _ in range(2)]
    (tmp_path / "a.png").write_bytes(b"a texture")
    (tmp_path / "notes.txt").write_text("read by nobody", encoding="utf-8")
    found.append(open_source(str(tmp_path)).fingerprint)
    (tmp_path / "a.obj").rename(tmp_path / "b.obj")
    found.append(open_source(str(tmp_path)).fingerprint)
    assert found[0] == found[1] and len(set(found)) == 3


def test_a_folder_of_meshes_is_a_source(tmp_path):
    (tmp_path / "tetrahedron.obj").write_text(TETRAHEDRON, encoding="utf-8")
    source = open_source(str(tmp_path))
    assert isinstance(source.make, partial) and source.make.func is mesh_sample
    first, again = (source(5, resolution=32, image_size=48, views=2) for _ in range(2))
    assert first.images.shape == (2, 48, 48, 3) and first.images.float().std() > 1
    assert torch.equal(first.images, again.images) and not torch.equal(first.images[0], first.images[1])
    with pytest.raises(ValueError, match="expected 'world' or a folder with"):
        open_source(str(tmp_path / "nothing"))


def test_an_object_outside_the_grid(source):
    example = source(0, resolution=32, image_size=16, views=1)
    empty = type(example.voxels.dual_grid)
    none = empty(
        torch.zeros(0, 3, dtype=torch.int32),
        torch.zeros(0, 3),
        torch.zeros(0, 3, dtype=torch.bool),
        example.voxels.dual_grid.grid,
    )
    with pytest.raises(ValueError, match="expected voxels, got none"):
        type(example)(type(example.voxels)(none), example.images, example.cameras)


def test_a_block_is_a_cube_on_the_borders_of_latents(source):
    voxels = source(0, resolution=64, image_size=16, views=0).voxels
    rows = {tuple(row) for row in voxels.dual_grid.coords.tolist()}
    for seed in range(8):
        block = block_of(voxels, 32, torch.Generator().manual_seed(seed))
        coords = block.dual_grid.coords
        assert {tuple(row) for row in coords.tolist()} <= rows and len(coords)
        first = coords.amin(0) // 16 * 16
        assert int((coords - first).max()) < 32
        inside = [row for row in rows if all(f <= c < f + 32 for c, f in zip(row, first.tolist(), strict=True))]
        assert len(inside) >= len(coords)
        assert torch.equal(block.field.coords, coords) and len(block.field.attrs) == len(coords)

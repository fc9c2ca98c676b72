"""Hidden faces: what is inside goes, what an opening shows stays."""

import pytest
import torch
import trimesh
from comfyui_trellis2.o_voxel.mesh.connectivity.row_map import select_faces
from comfyui_trellis2.o_voxel.mesh.repair import hidden
from comfyui_trellis2.o_voxel.mesh.repair.hidden import area_share, hidden_faces, remove_hidden_faces
from comfyui_trellis2.o_voxel.values import Mesh

from ...shapes import box, mesh, sheet, sphere, stack


def test_an_inner_ball_goes():
    both = stack(sphere(3), sphere(2, 0.5))
    seen, rows = remove_hidden_faces(both, directions=32)
    assert torch.equal(rows.faces, torch.arange(1280))
    assert torch.equal(seen.vertices, sphere(3).vertices)


def test_an_opening_shows_it():
    """With the cap of the outer ball off, the inner ball is seen; so is the inside of the outer one."""
    outer = sphere(3)
    top = outer.vertices[outer.faces.long()].mean(1)[:, 2] > 0.5
    both = stack(select_faces(outer, ~top)[0], sphere(2, 0.5))
    unseen = hidden_faces(both, directions=64)
    middle = both.vertices[both.faces.long()].mean(1)
    upper = (middle.norm(dim=1) < 0.6) & (middle[:, 2] > 0.2)
    assert upper.any() and not unseen[upper].any()
    assert not unseen[: int((~top).sum())].any()


def test_what_is_buried_in_two_boxes():
    """A bar through a box: the share of the hidden area is that of its middle, up to the triangles on the way in."""
    bar = trimesh.creation.box((3, 0.2, 0.2)).subdivide_to_size(0.1)
    both = stack(box(), mesh(bar.vertices, bar.faces))
    hidden = hidden_faces(both, 0, directions=32)
    middle = both.vertices[both.faces.long()].mean(1)
    assert not hidden[:12].any()
    inside = middle[:, 0].abs() < 0.42
    assert hidden[12:][inside[12:]].all()
    assert not hidden[middle[:, 0].abs() > 0.5].any()
    assert 0.08 < area_share(both, hidden) < 0.8 / (6 + 2.48) + 0.01


@pytest.mark.parametrize("turned", [False, True])
def test_both_sides_of_a_sheet_count(turned):
    flat = sheet(4)
    flat = Mesh(flat.vertices, flat.faces.flip(1)) if turned else flat
    assert not hidden_faces(flat, directions=8).any()


def test_a_margin_stays():
    bar = trimesh.creation.box((3, 0.2, 0.2)).subdivide_to_size(0.1)
    both = stack(box(), mesh(bar.vertices, bar.faces))
    counts = [int(hidden_faces(both, margin, directions=16).sum()) for margin in (0, 1, 3)]
    assert counts[0] > counts[1] > counts[2] > 0


def test_faces_smaller_than_a_pixel_are_seen():
    """A ball of 5,120 triangles, 0.04 across, in pictures of 1,024 pixels for 60: most win no pixel."""
    both = stack(sphere(4, 0.02), box((30, 0, 0), (60, 1, 1)))
    assert hidden_faces(both, 0, directions=16)[:5120].float().mean() < 0.6


def test_nothing_and_wrong_arguments():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int32))
    assert len(remove_hidden_faces(empty)[0].faces) == 0
    with pytest.raises(ValueError, match="margin: expected 0"):
        hidden_faces(box(), -1)
    with pytest.raises(ValueError, match="directions: expected 1"):
        hidden_faces(box(), directions=0)


def test_cancel():
    def stop(_):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        remove_hidden_faces(box(), progress=stop)


def test_enough_stops_early_and_hides_no_less(monkeypatch):
    both, drawn = stack(sphere(3), sphere(2, 0.5)), []
    real = hidden.rasterize
    monkeypatch.setattr(hidden, "rasterize", lambda *a, **k: drawn.append(0) or real(*a, **k))
    every = hidden_faces(both, directions=64)
    assert len(drawn) == 64
    drawn.clear()
    some = hidden_faces(both, directions=64, enough=0.7)
    assert len(drawn) < 32
    assert bool((every <= some).all()) and area_share(both, some) <= 0.3

"""Blended views: weights by side and visibility, against balls and walls that can be worked out by hand."""

import pytest
import torch
from comfyui_trellis2.trellis2.image.views import NAMED_VIEWS, ViewBlend, ViewDirection, parse_direction
from comfyui_trellis2.trellis2.sampling.flow_matching import average_views, blend_views
from comfyui_trellis2.trellis2.sampling.view_weights import filled, grid_weights, voxel_scores, voxel_weights
from comfyui_trellis2.trellis2.sparse import CoordSet
from comfyui_trellis2.trellis2.values import ImageCondition

SIX = ViewBlend(tuple(NAMED_VIEWS.values())).vectors()


def cells(side):
    return torch.cartesian_prod(*[torch.arange(side)] * 3)


def shell(side=24, outer=9.2, inner=8.0):
    """The voxels of a hollow ball."""
    places = cells(side)
    distance = (places + 0.5 - side / 2).norm(dim=1)
    return places[(distance > inner) & (distance < outer)]


def test_axes_of_the_named_views():
    vectors = dict(zip(NAMED_VIEWS, SIX.round().int().tolist(), strict=True))
    assert vectors == {
        "front": [0, -1, 0],
        "back": [0, 1, 0],
        "left": [1, 0, 0],
        "right": [-1, 0, 0],
        "top": [0, 0, 1],
        "bottom": [0, 0, -1],
    }


@pytest.mark.parametrize(
    ("text", "azimuth", "elevation"),
    [("back", 180, 0), ("azimuth=90,elevation=10", 90, 10), ("elevation=-5 azimuth=1e1", 10, -5), (" 45 20 ", 45, 20)],
)
def test_directions_are_read(text, azimuth, elevation):
    assert parse_direction(text) == ViewDirection(azimuth, elevation)


@pytest.mark.parametrize(
    "text",
    ["", "behind", "elevation=3", "azimuth", "azimuth=1,azimuth=2", "1 2 3", "nan 0", "0 91"],
)
def test_other_text_is_no_direction(text):
    with pytest.raises(ValueError, match="expected"):
        parse_direction(text)


def test_a_balls_scores_are_the_cosines_of_its_normals():
    voxels = shell()
    normals = torch.nn.functional.normalize(voxels + 0.5 - 12, dim=1)
    scores = voxel_scores(SIX, CoordSet.from_items([voxels]))
    # A voxel's centre is up to half a voxel off the ball; its normal is of a box of five.
    assert (scores - (SIX @ normals.T).clamp_min(0)).abs().max() < 0.12
    assert (scores[1][normals[:, 1] < -0.5] < 1e-3).all()  # the back does not see the front


def test_what_a_wall_hides_is_not_seen():
    wall = torch.cartesian_prod(torch.arange(20), torch.arange(2, 5), torch.arange(20))
    block = torch.cartesian_prod(torch.arange(6, 14), torch.arange(12, 18), torch.arange(6, 14))
    scores = voxel_scores(SIX[:2], CoordSet.from_items([torch.cat([wall, block])]))
    faces = scores[:, len(wall) :][:, block[:, 1] == 12]
    assert faces[0].max() < 0.1  # the front view meets the wall first
    alone = voxel_scores(SIX[:2], CoordSet.from_items([block]))[:, block[:, 1] == 12]
    assert alone[0].mean() > 0.7


def test_a_cavity_open_along_an_axis_stays_empty():
    box = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    box[:, 1:7, 1:7, 1:7] = True
    closed, opened = box.clone(), box.clone()
    closed[:, 2:6, 2:6, 2:6] = opened[:, 2:6, 2:6, 2:7] = False
    assert torch.equal(filled(closed), box)
    assert torch.equal(filled(opened), opened)


def test_weights_add_up_and_a_batch_is_single_runs():
    items = [shell(), shell(16, 6.1, 5.0), shell()[:1]]
    together = voxel_weights(SIX, CoordSet.from_items(items), 0.3)
    assert torch.allclose(together.sum(0), torch.ones(1), atol=1e-6)
    for part, voxels in zip(together.split([len(item) for item in items], dim=1), items, strict=True):
        assert torch.allclose(part, voxel_weights(SIX, CoordSet.from_items([voxels]), 0.3), rtol=0, atol=1e-6)


def test_unseen_voxels_weigh_views_alike_and_none_is_none():
    far = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    assert voxel_weights(far, CoordSet.from_items([shell()]), 0.1).unique().tolist() == [0.5]
    assert voxel_weights(SIX, CoordSet.from_items([torch.zeros(0, 3, dtype=torch.int32)]), 1.0).shape == (6, 0, 1)


def test_a_low_temperature_gives_a_voxel_to_one_view():
    weights = voxel_weights(SIX, CoordSet.from_items([shell()]), 1e-3)
    assert weights.amax(0).mean() > 0.95
    assert torch.allclose(voxel_weights(SIX, CoordSet.from_items([shell()]), 1e6), torch.tensor(1 / 6), atol=1e-4)


def test_a_grids_half_belongs_to_the_view_before_it():
    weights = grid_weights(SIX[:2], 8, 0.2)
    assert weights.shape == (2, 1, 1, 8, 8, 8)
    assert (weights[0, 0, 0, :, :4] > 0.5).all() and (weights[1, 0, 0, :, 4:] > 0.5).all()
    assert torch.allclose(weights.sum(0), torch.ones(1))


def test_a_blend_is_the_weighted_sum_and_equal_weights_are_the_average():
    views = [lambda x, t, k=k: x * k + t for k in range(3)]
    x, weights = torch.arange(8.0).reshape(4, 2), torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 1], [0.5, 0, 0.5]])
    got = blend_views(views, weights.T[:, :, None])(x, 0.25)
    expected = torch.stack([sum(w * view(x, 0.25)[i] for w, view in zip(row, views, strict=True))
                            for i, row in enumerate(weights)])  # fmt: skip
    assert torch.allclose(got, expected)
    equal = blend_views(views, torch.full((3, 1, 1), 1 / 3))(x, 0.25)
    assert torch.allclose(equal, average_views(views)(x, 0.25))
    with pytest.raises(ValueError, match="expected one for each of 3 views, got 2"):
        blend_views(views, weights.T[:2, :, None])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"directions": None}, "expected the direction of each view, got pictures without; connect the Views node"),
        ({"directions": SIX[:3]}, "directions: expected"),
        ({"directions": 2 * SIX[:2]}, "expected unit vectors"),
        ({"temperature": 0.0}, "temperature: expected a positive number"),
    ],
)
def test_a_blend_without_what_it_needs_is_refused(changed, words):
    fields = {"directions": SIX[:2], "temperature": 0.2, **changed}
    with pytest.raises(ValueError, match=words):
        ImageCondition(torch.zeros(1, 2, 5, 4), None, "blend", **fields)


@pytest.mark.gpu
def test_a_cards_weights_are_the_cpus():
    coords = CoordSet.from_items([shell(), shell(40, 17.2, 16.0)])
    on_card = CoordSet(coords.rows.cuda(), coords.lengths)
    for temperature in (0.05, 0.2):
        found = voxel_weights(SIX.cuda(), on_card, temperature).cpu()
        assert torch.allclose(found, voxel_weights(SIX, coords, temperature), atol=1e-4)

"""The condition of flows that read a picture where their tokens are in it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.trellis2.checkpoint.config import FlowConfig, SamplerArgs, SamplerConfig, SamplerParams
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.image.views import NAMED_VIEWS, ViewBlend
from comfyui_trellis2.trellis2.models.structure_flow import StructureFlow
from comfyui_trellis2.trellis2.projection.blocks import block_channels, block_features, block_places
from comfyui_trellis2.trellis2.projection.camera import ViewRig
from comfyui_trellis2.trellis2.projection.framing import CropConfig, ball, cropped, features, frames
from comfyui_trellis2.trellis2.sampling.cropped import block_guide, crop_guide, crop_views, sided_mode
from comfyui_trellis2.trellis2.sampling.flow_sampling import sample_structure_latent
from comfyui_trellis2.trellis2.sampling.projected import latent_guide
from comfyui_trellis2.trellis2.sparse import CoordSet
from comfyui_trellis2.trellis2.values import ImageCondition
from PIL import Image

CONFIG = CropConfig(cells=8, side=2, pitch_deg=20.0, fov_deg=30.0)
VOXELS = [torch.tensor([[1, 2, 3], [4, 5, 6], [7, 0, 2]], dtype=torch.int32), torch.tensor([[3, 3, 3], [0, 6, 1]])]


def condition_of(objects, views=1, taken="average"):
    draw = torch.Generator().manual_seed(5)
    bytes_ = torch.randint(0, 256, (2, views, 32, 32, 3), generator=draw, dtype=torch.uint8).numpy()
    pixels = [[Image.fromarray(view) for view in own] for own in bytes_[:objects]]
    tokens = torch.randn(2, views, 5 + 16, 6, generator=draw)[:objects]
    mode = {"view_mode": "blend", "directions": taken.vectors()} if isinstance(taken, ViewBlend) else {}
    return ImageCondition(tokens, None, crop=crop_views(CONFIG, pixels, taken), **mode)


def guide_of(condition, items):
    coords = CoordSet.from_items([item.int() for item in items])
    return crop_guide(condition, 512, coords, (32,) * len(items))


def test_a_batch_is_its_objects_and_tokens_stay():
    condition, item = condition_of(2), [v.int() for v in VOXELS]
    (both,) = guide_of(condition, item).views(512)
    (first,) = guide_of(condition_of(1), item[:1]).views(512)
    assert both.projected.shape == (5, 6 + 12) and both.lengths == (21, 21)
    torch.testing.assert_close(both.projected[:3], first.projected)
    assert torch.equal(both.feats, condition.tokens_512.flatten(0, 2))


def test_views_without_sides_go_evenly_around():
    (views,) = condition_of(1, 4).crop.views
    sides = [NAMED_VIEWS[name].azimuth_deg for name in ("front", "left", "back", "right")]
    assert [view.angles for view in views] == [(side, CONFIG.pitch_deg, CONFIG.fov_deg) for side in sides]


def test_sides_that_are_said_go_with_the_mode_or_are_refused():
    sides = (NAMED_VIEWS["front"], NAMED_VIEWS["left"])
    assert sided_mode("average", sides, 25.0) == ViewRig(25.0, sides)
    assert sided_mode("average", None) == ViewRig() and sided_mode("cycle", None) == "cycle"
    with pytest.raises(ValueError, match="view_mode cycle: expected average or blend"):
        sided_mode("cycle", sides)


def test_a_view_is_read_from_its_side():
    front, left = NAMED_VIEWS["front"], NAMED_VIEWS["left"]
    condition, item = condition_of(1, 2, ViewBlend((front, left), 0.2)), [VOXELS[0]]
    guide = guide_of(condition, item)
    assert guide.view_mode == "blend" and torch.equal(guide.directions, condition.directions)
    points = Grid.cube(32).centers(item[0])
    for view, sequences in enumerate(guide.views(512)):
        at = condition.crop.views[0][view]
        maps = (condition.tokens_512[:, view, 5:], condition.crop.colors[:, view])
        wanted = features(cropped(points, points, at), torch.zeros(3, dtype=torch.long), maps)
        torch.testing.assert_close(sequences.projected, wanted)
    assert [view.yaw_deg for view in condition.crop.views[0]] == [0.0, 90.0]


def test_a_camera_is_the_usual_one_where_nothing_is_said():
    crop = condition_of(1).crop
    assert (crop.views[0][0].pitch_deg, crop.views[0][0].fov_deg) == (20.0, 30.0)
    crop = condition_of(1, taken=ViewRig(fov_deg=50.0, directions=(NAMED_VIEWS["top"],))).crop
    assert (crop.views[0][0].pitch_deg, crop.views[0][0].fov_deg) == (90.0, 50.0)


def test_a_side_for_every_picture():
    with pytest.raises(ValueError, match="each of 1 pictures, got 2"):
        condition_of(1, taken=ViewRig(directions=(NAMED_VIEWS["front"], NAMED_VIEWS["left"])))


def test_a_structure_is_read_in_front_of_a_ball_and_then_of_itself():
    """Points that the latent is heading for take the ball's place, of each object where there are any."""
    condition, half = condition_of(2), ball() / 2

    def occupied(latent):
        return [half if float(item.sum()) > 0 else half[:0] for item in latent]

    guide = block_guide(condition, 4, occupied, torch.device("cpu"))
    (first,), (then,) = guide.views(512), guide.follow(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1))
    assert first.projected.shape == (2 * 64, block_channels(6)) and then.lengths == first.lengths
    assert first.projected[:, -1].tolist() == [0.0] * 128 and then.projected[:, -1].tolist() == [1.0] * 64 + [0.0] * 64
    torch.testing.assert_close(then.projected[64:], first.projected[64:])
    assert not torch.allclose(then.projected[:64], first.projected[:64])
    views = torch.tensor([view[0].angles for view in condition.crop.views])
    owner = torch.arange(2).repeat_interleave(len(half))
    places = block_places(frames(torch.cat([half, ball()]), owner, views), 4)
    patches = condition.tokens_512[:, 0, 5:]
    wanted = block_features(places, patches, condition.crop.colors[:, 0], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(then.projected, wanted)


@pytest.mark.parametrize("crop", [CONFIG, None], ids=["expected", "not expected"])
def test_another_checkpoints_condition_is_refused(crop):
    networks = SimpleNamespace(config=SimpleNamespace(crop=crop, models={}), device=torch.device("cpu"))
    condition = condition_of(1) if crop is None else ImageCondition(torch.randn(1, 1, 21, 6), None)
    with pytest.raises(ValueError, match="same Load Model"):
        latent_guide(networks, condition, "shape", CoordSet.from_items([VOXELS[0]]), (512,))


def test_conditions_follow_where_the_sample_is_heading():
    """After steps 1, 2 and 4, from the clean sample that the step before points to; the sample depends on them."""
    recipe = {"resolution": 4, "in_channels": 2, "out_channels": 2, "model_channels": 16, "cond_channels": 6}
    args = {"num_blocks": 1, "num_heads": 2, "mlp_ratio": 2, "image_attn_mode": "proj"}
    config = FlowConfig(**recipe, **args, pe_mode="rope", proj_in_channels=block_channels(6))
    flow = StructureFlow(config)
    randomize(flow, torch.Generator().manual_seed(0))
    params = SamplerParams(
        steps=6, guidance_strength=2.0, guidance_rescale=0.0, guidance_interval=(0.0, 1.0), rescale_t=1.0
    )
    sampler = SamplerConfig(name="FlowEulerGuidanceIntervalSampler", args=SamplerArgs(sigma_min=1e-5), params=params)
    noise, headings = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1)), []

    def occupied(latent):
        headings.append(latent)
        return [ball() / 2]

    guide = block_guide(condition_of(1), 4, occupied, torch.device("cpu"))
    with torch.no_grad():
        first = sample_structure_latent(flow, noise, guide, sampler)
        assert len(headings) == 3
        # A single step that goes all the way ends where the first one was heading.
        once = replace(sampler, params=replace(params, steps=1, guidance_strength=1.0))
        torch.testing.assert_close(sample_structure_latent(flow, noise, guide, once), headings[0], atol=1e-4, rtol=1e-4)
        assert torch.equal(first, sample_structure_latent(flow, noise, guide, sampler))
        alone = sample_structure_latent(flow, noise, replace(guide, follow=None), sampler)
    assert not torch.allclose(first, alone)

"""The procedural world: every family makes valid objects, the same for a seed, and samples are ready for training."""

import hashlib

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.render import textured_scene
from comfyui_trellis2.o_voxel.voxels.from_mesh import voxelize
from comfyui_trellis2.trellis2.cli.main import main
from comfyui_trellis2.trellis2.image import prepare_image
from comfyui_trellis2.trellis2.training.world import (
    FAMILIES,
    HELD_OUT_FAMILIES,
    HELD_OUT_SEEDS,
    TRAIN_FAMILIES,
    TRAIN_SEEDS,
    WORLD_VERSION,
    make_object,
    make_rendered_object,
)
from comfyui_trellis2.trellis2.training.world.dice import Dice
from comfyui_trellis2.trellis2.training.world.materials import glass, plain
from comfyui_trellis2.trellis2.training.world.objects import EXTENT, assemble, facing
from comfyui_trellis2.trellis2.training.world.shapes import box, cylinder, extrude, patch, sphere, sweep, triangulate
from comfyui_trellis2.trellis2.training.world.views import draw_views, framed, random_view
from PIL import Image

SEEDS = range(5)
# Of all families' objects with seed 7, by version of the world.
DIGESTS = {1: "709f8776649a3595"}
# (voxels at 64 a side, mean material, mean colour of a picture of 64 pixels) with seed 7, by version of the world.
RENDERED = {
    1: {
        "mug": (22671, (0.543, 0.596, 0.170, 0.0, 0.291, 1.0), (90.7, 99.8, 23.1, 174.5)),
        "chair": (4641, (0.327, 0.520, 0.727, 0.545, 0.557, 1.0), (4.2, 18.8, 31.4, 51.7)),
    }
}
WHITE = plain((1.0, 1.0, 1.0))
families = pytest.mark.parametrize("family", FAMILIES)


def data(mesh) -> bytes:
    """Everything that makes an object, as bytes."""
    tensors = [mesh.mesh.vertices, mesh.mesh.faces, mesh.material_ids, mesh.uv, mesh.uv_faces]
    images = [m.base_color_texture.image for m in mesh.materials if m.base_color_texture]
    factors = torch.tensor([(*m.base_color_factor, m.metallic_factor, m.roughness_factor) for m in mesh.materials])
    return b"".join(tensor.numpy().tobytes() for tensor in [*tensors, *images, factors])


def open_edges(mesh) -> int:
    """Edges that one face has."""
    faces = mesh.mesh.faces.long()
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(1).values
    return int((torch.unique(edges, dim=0, return_counts=True)[1] == 1).sum())


def test_families_and_seeds_for_judging_are_kept_apart():
    assert not set(TRAIN_FAMILIES) & set(HELD_OUT_FAMILIES)
    assert len(TRAIN_FAMILIES) >= 24
    assert len(HELD_OUT_FAMILIES) >= 6
    assert set(FAMILIES) == {*TRAIN_FAMILIES, *HELD_OUT_FAMILIES}
    assert TRAIN_SEEDS[0] == 0  # a trainer counts up from here
    assert TRAIN_SEEDS[-1] < HELD_OUT_SEEDS[0]
    assert make_object("chair", HELD_OUT_SEEDS[0]).mesh.faces.shape[1] == 3


@pytest.mark.slow
@families
def test_objects_are_valid_and_differ_by_seed_alone(family: str):
    seen = set()
    for seed in SEEDS:
        mesh = make_object(family, seed)
        vertices, faces = mesh.mesh.vertices, mesh.mesh.faces
        assert vertices.isfinite().all()
        low, high = vertices.amin(0), vertices.amax(0)
        assert float((high - low).max()) == pytest.approx(EXTENT, abs=1e-4)
        assert float((low + high).abs().max()) < 1e-4
        assert 200 <= len(faces) <= 60_000
        assert int(faces.min()) >= 0
        assert int(faces.max()) < len(vertices)
        assert len(torch.unique(mesh.material_ids)) == len(mesh.materials) >= 1
        assert mesh.uv.isfinite().all()
        assert -1e-6 <= float(mesh.uv.min()) <= float(mesh.uv.max()) <= 1 + 1e-6
        assert data(mesh) == data(make_object(family, seed))
        seen.add(data(mesh))
    assert len(seen) == len(SEEDS)


@pytest.mark.slow
def test_another_world_has_another_version():
    """Caches of objects are keyed by it. If this fails, raise WORLD_VERSION and add the new values above."""
    digest = hashlib.sha256()
    for family in sorted(FAMILIES):
        digest.update(data(make_object(family, 7)))
    assert digest.hexdigest()[:16] == DIGESTS[WORLD_VERSION]


@pytest.mark.parametrize("family", ["mug", "chair"])
def test_other_voxels_or_pictures_have_another_version(family: str):
    rendered = make_rendered_object(family, 7, resolution=64, image_size=64)
    count, material, color = RENDERED[WORLD_VERSION][family]
    assert len(rendered.voxels.field.coords) == pytest.approx(count, rel=1e-3)
    assert rendered.voxels.field.attrs.float().mean(0).tolist() == pytest.approx(material, abs=2e-3)
    assert np.asarray(rendered.images[0]).mean((0, 1)).tolist() == pytest.approx(color, abs=0.2)


@pytest.mark.slow
@families
def test_objects_voxelise(family: str):
    voxels = voxelize(make_object(family, 0), Grid.cube(32))
    coords = voxels.dual_grid.coords
    assert len(coords) > 50
    assert int((coords.amax(0) - coords.amin(0)).max()) >= 29  # the longest side fills the grid but for the margin
    assert int(coords.min()) >= 0
    attrs = voxels.field.attrs
    assert attrs.isfinite().all()
    assert 0 <= float(attrs.min()) <= float(attrs.max()) <= 1


@pytest.mark.slow
def test_the_world_has_open_thin_metallic_clear_and_inner_parts():
    objects = [make_object(family, 1) for family in FAMILIES]
    materials = [material for mesh in objects for material in mesh.materials]
    assert sum(open_edges(mesh) > 0 for mesh in objects) >= 10
    assert any(material.metallic_factor == 1 for material in materials)
    assert any(material.base_color_texture for material in materials)
    clear = [mesh for seed in range(8) for mesh in [make_object("bottle", seed)] if "BLEND" in str(mesh.materials)]
    assert clear  # and what is in the bottle lies inside its glass
    mesh = clear[0]
    wall = torch.tensor([material.alpha_mode == "BLEND" for material in mesh.materials])[mesh.material_ids.long()]
    corner = mesh.mesh.vertices[mesh.mesh.faces.long()]
    assert float(corner[~wall][:, :, 2].min()) > float(corner[wall][:, :, 2].min())


def test_the_command_draws_a_sheet(tmp_path):
    path = tmp_path / "sheet.png"
    assert main(["world", "-o", str(path), "--family", "mug", "--count", "3", "--columns", "2", "--size", "24"]) == 0
    with Image.open(path) as sheet:
        assert sheet.size == (48, 48)
        assert len(sheet.crop((0, 0, 24, 24)).getcolors(576)) > 20
        assert len(sheet.crop((24, 24, 48, 48)).getcolors()) == 1
    assert main(["world", "-o", str(path), "--family", "unicorn"]) == 1


def test_unknown_families_and_seeds_are_refused():
    with pytest.raises(ValueError, match="family: expected one of"):
        make_object("unicorn", 0)
    with pytest.raises(ValueError, match="seed: expected 0 or more"):
        make_object("chair", -1)


def test_a_sample_is_what_training_reads_and_the_same_each_time():
    sample = make_rendered_object("mug", 3, resolution=64, image_size=96, views=2)
    again = make_rendered_object("mug", 3, resolution=32, image_size=96, views=1)
    assert sample.voxels.dual_grid.grid == Grid.cube(64)
    assert sample.voxels.field.attrs.shape == (len(sample.voxels.dual_grid.coords), 6)
    assert [image.mode for image in sample.images] == ["RGBA"] * 2
    assert np.array_equal(np.asarray(sample.images[0]), np.asarray(again.images[0]))
    assert not np.array_equal(np.asarray(sample.images[0]), np.asarray(sample.images[1]))
    cells = sample.occupancy(32)
    assert cells.shape == (32, 32, 32)
    assert int(cells.sum()) == len(torch.unique(sample.voxels.dual_grid.coords // 2, dim=0))
    with pytest.raises(ValueError, match="side: expected a divisor of 64"):
        sample.occupancy(48)


def test_what_a_camera_saw_from_the_side_is_in_front():
    side = facing(make_object("sword", 0), 90)
    low, high = side.mesh.vertices.amin(0), side.mesh.vertices.amax(0)
    assert float((high - low).max()) == pytest.approx(EXTENT, abs=1e-4)
    torch.testing.assert_close(low + high, torch.zeros(3), atol=1e-4, rtol=0)
    scene = assemble([(box(1, 0.2, 0.2), plain((0.2, 0.2, 0.2))), (box(0.1, 0.1, 0.1).at(x=0.5), plain((0.8, 0, 0)))])
    red = facing(scene, 90).mesh.vertices[scene.mesh.faces.long()[scene.material_ids == 1].flatten()].mean(0)
    assert float(red[1]) < -0.3  # it stood at +x, which a camera of yaw 90 has before it
    assert abs(float(red[0])) < 1e-3


def test_a_sample_stands_as_its_pictures_see_it():
    sample = make_rendered_object("chair", 5, resolution=32, image_size=96, views=2)
    assert [view.camera.yaw_deg for view in sample.views] == [0, 0]
    assert sample.views[0].camera.pitch_deg != sample.views[1].camera.pitch_deg
    size = make_object("chair", 5).mesh.vertices.amax(0) * 2
    assert not torch.allclose(sample.mesh.mesh.vertices.amax(0) * 2, size, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["mug", "goblet", "plane", "lamp"])
def test_pictures_are_filled_and_cropped_whole(family: str):
    for seed in range(2):
        picture = make_rendered_object(family, seed, resolution=32, image_size=96).images[0]
        seen = np.asarray(picture)[:, :, 3] > 0
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        assert 84 <= max(np.ptp(rows), np.ptp(columns)) + 1 <= 96
        assert not seen[[0, -1]].all()
        assert 80 <= prepare_image(picture).width <= 96


def test_what_stands_behind_glass_is_seen_through_it():
    ball, pane = sphere(0.3).at(y=0.5), box(1, 0.02, 1).at(z=-0.5)
    red = plain((0.8, 0.1, 0.1))
    scene = assemble([(ball, red), (pane, glass((0.9, 0.9, 1.0), 0.4))])
    view = random_view(Dice("view"))
    camera = type(view.camera)(yaw_deg=0, pitch_deg=0)
    picture = draw_views(scene, [type(view)(camera, view.light)], 64)[0].int()
    middle, edge = picture[32, 32], picture[32, 8]
    assert int(middle[3]) == 255  # the ball is opaque
    assert int(middle[0]) - int(middle[1]) > 40
    assert 100 < int(edge[3]) < 255


def test_the_camera_frames_any_object():
    scene = textured_scene(make_object("sword", 0), ground=False)
    for index in range(6):
        camera = framed(random_view(Dice("frame", index)).camera, scene)
        x, y, depth = camera.view(scene.bounds, (1, 1)).to_eye(scene.vertices.T)
        reach = torch.tan(torch.tensor(camera.fov_deg / 2).deg2rad())
        assert float(depth.min()) > 0
        assert 0.85 < float(torch.stack([x / depth, y / depth]).abs().max() / reach) < 1.0


@pytest.mark.parametrize(
    "shape, volume",
    [
        (box(1, 2, 3), 6.0),
        (cylinder(1, 2, segments=200), 2 * np.pi),
        (sphere(1, 80), 4 / 3 * np.pi),
        (extrude([(0, 0), (2, 0), (2, 2), (1, 1), (0, 2)], 1), 3.0),
        (sweep([(0, 0, 0), (0, 0, 2)], [(0, 0), (1, 0), (0, 1)]), 1.0),
    ],
    ids=["box", "cylinder", "sphere", "extrude", "sweep"],
)
def test_solids_are_closed_and_as_large_as_they_should_be(shape, volume: float):
    mesh = assemble([(shape, WHITE)])
    assert open_edges(mesh) == 0
    points = shape.points[shape.faces] - shape.points.mean(0)
    # Seen from the middle every pyramid of these bodies counts once, whichever way its face is wound.
    pyramids = np.abs(np.linalg.det(points)).sum() / 6
    assert pyramids == pytest.approx(volume, rel=2e-3)


def test_sheets_stay_open_and_cutting_ears_fills_a_polygon():
    assert open_edges(assemble([(patch(np.random.default_rng(0).random((4, 5, 3))), WHITE)])) == 2 * (3 + 4)
    star = np.array([(np.cos(t), np.sin(t)) for t in np.linspace(0, 2 * np.pi, 20, endpoint=False)])
    star[::2] *= 0.4
    a, b, c = (star[triangulate(star)][:, k] for k in range(3))
    areas = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    x, y = star.T
    assert (areas > 0).all()
    assert areas.sum() == pytest.approx(x @ np.roll(y, -1) - y @ np.roll(x, -1))

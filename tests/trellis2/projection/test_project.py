"""Projection against a pinhole camera written out, sampling against torch's, and the frame against a rotation."""

import pytest
import torch
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField
from comfyui_trellis2.trellis2.image.views import ViewDirection
from comfyui_trellis2.trellis2.projection.camera import MARGIN, ViewRig, canonical, distance_of, orbit
from comfyui_trellis2.trellis2.projection.frame import field_to_z_up, grid_points, mesh_to_z_up, voxels_to_z_up
from comfyui_trellis2.trellis2.projection.pictures import view_pictures
from comfyui_trellis2.trellis2.projection.project import corners, project, sampled
from PIL import Image, ImageDraw
from torch.nn import functional as F

FOV = torch.tensor(0.7)


def test_where_known_points_fall():
    """The camera in front sees +x on the right and +z above; the side of the cube fills the picture's width."""
    distance = distance_of(float(FOV))
    points = torch.tensor([[0.0, 0, 0], [0.5, 0, 0], [0, 0, 0.5], [-0.5, 0, -0.5]])
    pixels = project(points, canonical(distance), FOV, 512)
    expected = torch.tensor([[256.0, 256], [512, 256], [256, 0], [0, 512]])
    torch.testing.assert_close(pixels, expected, atol=1e-3, rtol=0)
    # From the object's left (+x), its front (-y) is on the picture's left.
    left = project(torch.tensor([[0.0, -0.3, 0]]), orbit(ViewDirection(90), distance), FOV, 512)
    assert left[0, 0] < 200 and left[0, 1] == pytest.approx(256, abs=1e-3)


@pytest.mark.parametrize(("size", "side"), [(512, 32), (512, 512), (144, 9), (100, 7)])
def test_interpolation_is_torchs(size, side):
    draw = torch.Generator().manual_seed(side)
    values = torch.randn(side, side, 5, generator=draw)
    pixels = (torch.rand(400, 2, generator=draw) * 3 - 1) * size  # a third of them inside
    place = (pixels + 0.5) / size * 2 - 1
    expected = F.grid_sample(
        values.permute(2, 0, 1)[None], place[None, None], mode="bilinear", padding_mode="border", align_corners=False
    )
    ours = sampled(values.flatten(0, 1), corners(pixels, size, side))
    torch.testing.assert_close(ours, expected[0, :, 0].T, atol=2e-4, rtol=0)


def test_points_in_the_cameras_plane_are_finite():
    points = torch.tensor([[0.1, -1.0, 0.2], [0.0, -1.0, 0.0], [0.0, -3.0, 0.1]])
    at = corners(project(points, canonical(1.0), FOV, 512), 512, 32)
    assert at.weights.isfinite().all() and (at.pixels >= 0).all() and (at.pixels < 1024).all()
    torch.testing.assert_close(at.weights.sum(dim=1), torch.ones(3))


def test_the_frame_is_a_rotation_of_grid_and_mesh_alike():
    side = 8
    axis = torch.arange(side, dtype=torch.int32)
    voxels = torch.cartesian_prod(axis, axis, axis)
    grid = Grid.cube(side)
    turned = voxels_to_z_up(voxels, side)
    assert len(torch.unique(turned, dim=0)) == side**3 and turned.dtype == torch.int32
    mesh = mesh_to_z_up(Mesh(grid.centers(voxels), torch.zeros(1, 3, dtype=torch.int64)))
    torch.testing.assert_close(mesh.vertices, grid.centers(turned))
    field = field_to_z_up(VoxelField(voxels, torch.zeros(len(voxels), 6), grid))
    assert torch.equal(field.coords, turned)
    # The front of the y-up frame, +z, becomes -y, where the canonical camera stands.
    front = voxels_to_z_up(torch.tensor([[4, 4, side - 1]], dtype=torch.int32), side)
    assert front.tolist() == [[4, 0, 4]]
    points = grid_points(torch.tensor([[0, 0, 0], [7, 7, 7]], dtype=torch.int32), side)
    assert points.tolist() == [[-0.5, 0.5, -0.5], [0.5, -0.5, 0.5]]


def test_views_are_cropped_alike_and_about_their_centres():
    """The largest silhouette leaves the margin; the camera sees the same object after the crop as before it."""
    images = [Image.new("RGBA", (200, 150)), Image.new("RGBA", (200, 200))]
    ImageDraw.Draw(images[0]).rectangle((80, 35, 119, 114), fill="white")
    ImageDraw.Draw(images[1]).rectangle((40, 90, 159, 109), fill="white")
    rig = ViewRig(30.0, (ViewDirection(0), ViewDirection(90)))
    pictures, cameras, fov = view_pictures(images, rig, [256])
    widths = [int((p[0] > 0.5).any(dim=0).sum()) for p in pictures[256]]
    heights = [int((p[0] > 0.5).any(dim=1).sum()) for p in pictures[256]]
    assert max(*widths, *heights) == pytest.approx(256 / MARGIN, abs=3)
    assert widths[0] / widths[1] == pytest.approx(40 / 120, rel=0.05)
    zoom = MARGIN * 0.6
    assert torch.tan(fov / 2).tolist() == pytest.approx([zoom * torch.tan(torch.tensor(15.0).deg2rad()).item()] * 2)
    assert cameras[0, :3, 3].norm().item() == pytest.approx(MARGIN * distance_of(float(fov[0])), rel=1e-5)

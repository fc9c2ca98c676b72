"""The rasteriser against rational arithmetic, linear solves and closed forms, and its backends against each other."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from comfyui_trellis2.o_voxel.ops.raster import Raster, rasterize
from comfyui_trellis2.o_voxel.ops.raster.reference import edge_functions

BACKENDS = ["reference", "numba", pytest.param("triton", marks=pytest.mark.gpu)]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def draw(clip, faces, size, backend="reference") -> Raster:
    device = "cuda" if backend == "triton" else "cpu"
    raster = rasterize(clip.to(device), faces.to(device), size, backend=backend)
    return Raster(raster.face.cpu(), raster.bary.cpu(), raster.depth.cpu())


def flat(points, z=0.0):
    points = torch.as_tensor(points, dtype=torch.float32)
    return torch.cat((points, torch.full_like(points[:, :1], z), torch.ones_like(points[:, :1])), dim=1)


def soup(count, seed, spread=0.2, camera=2.0):
    """Separate triangles in perspective; with a small `camera` distance some cross the camera plane."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.rand(count, 1, 4, generator=generator) * 3 - 1.5
    clip = middle + torch.randn(count, 3, 4, generator=generator) * spread
    clip[..., 3] = clip[..., 3] * 0.5 + camera
    return clip.reshape(-1, 4), torch.arange(3 * count, dtype=torch.int32).view(-1, 3)


def equal(a: Raster, b: Raster):
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("face", "bary", "depth"))


def centers(size):
    y, x = (torch.arange(n, dtype=torch.float64) * 2 + 1 for n in size)
    return (x / size[1] - 1).expand(size), (1 - y / size[0])[:, None].expand(size)


@pytest.mark.slow
@each_backend
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (63, 31), (7, 100)], ids=str)
@pytest.mark.parametrize("flip", [False, True], ids=["same winding", "mixed winding"])
def test_faces_that_tile_a_square_cover_each_pixel_once(backend, size, flip):
    generator = torch.Generator().manual_seed(0)
    n = 4
    line = torch.linspace(-1, 1, n + 1)
    points = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    points[1:-1, 1:-1] += (torch.rand(n - 1, n - 1, 2, generator=generator) - 0.5) * 0.3
    # Some vertices exactly on pixel centres, some edges through them.
    points[2, 2] = torch.tensor(
        [1 / size[1] - 1 + 2 * (size[1] // 2) / size[1], 1 - (2 * (size[0] // 2) + 1) / size[0]]
    )
    corner = (torch.arange(n)[:, None] * (n + 1) + torch.arange(n)).flatten()
    faces = torch.cat(
        (
            torch.stack((corner, corner + 1, corner + n + 1), 1),
            torch.stack((corner + 1, corner + n + 2, corner + n + 1), 1),
        )
    )
    if flip:
        faces[::2] = faces[::2].flip(1)
    vertices = flat(points.reshape(-1, 2))
    count = sum((draw(vertices, face[None], size, backend).face >= 0).int() for face in faces)
    assert (count == 1).all()


@each_backend
def test_a_fan_round_a_pixel_centre_covers_it_once(backend):
    center = torch.tensor([[1 / 8, -3 / 8]])
    angle = torch.arange(7) * (2 * torch.pi / 7)
    vertices = flat(torch.cat((center, center + 0.9 * torch.stack((angle.cos(), angle.sin()), dim=1))))
    faces = torch.tensor([[0, 1 + i, 1 + (i + 1) % 7] for i in range(7)])
    count = sum((draw(vertices, face[None], (8, 8), backend).face >= 0).int() for face in faces)
    assert count.max() == 1
    assert count[5, 4] == 1


@pytest.mark.slow
@each_backend
def test_coverage_is_exact_with_the_top_left_rule(backend):
    """Against rational arithmetic, on vertices that often lie on pixel centres and edges that pass through them."""
    generator = torch.Generator().manual_seed(3)
    height, width = 8, 16
    for _ in range(40):
        pixel = torch.randint(0, 2 * width, (3, 2), generator=generator)  # in half pixels, right and down
        pixel[:, 1] %= 2 * height
        clip = flat(torch.stack((pixel[:, 0] / width - 1, 1 - pixel[:, 1] / height), dim=1))
        face = draw(clip, torch.tensor([[0, 1, 2]]), (height, width), backend).face
        corners = [tuple(Fraction(int(c), 2) for c in row) for row in pixel]
        for y in range(height):
            for x in range(width):
                assert (face[y, x] == 0) == covers(corners, x + Fraction(1, 2), y + Fraction(1, 2)), (pixel, x, y)


def covers(corners, x, y):
    """The fill rule of Direct3D, y down: inside, or on an edge with the inner side to its right or below."""
    (ax, ay), (bx, by), (cx, cy) = corners
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
        return False
    if area < 0:
        corners = [corners[0], corners[2], corners[1]]
    for i in range(3):
        (ax, ay), (bx, by) = corners[i], corners[(i + 1) % 3]
        side = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        top, left = ay == by and bx > ax, by < ay
        if side < 0 or (side == 0 and not (top or left)):
            return False
    return True


@each_backend
@pytest.mark.parametrize("camera", [3.0, 0.3], ids=["in front", "across the camera plane"])
def test_perspective_against_a_linear_solve(backend, camera):
    """For each pixel and face, solve for the weights of the corners' (x, y, w) that meet the pixel's ray."""
    size = (24, 17)
    clip, faces = soup(12, seed=1, spread=1.2, camera=camera)
    assert camera > 1 or ((clip[:, 3] < 0).view(-1, 3).any(1) & (clip[:, 3] > 0).view(-1, 3).any(1)).any()
    raster = draw(clip, faces, size, backend)
    px, py = (axis.flatten().numpy() for axis in centers(size))
    corners = clip.double().view(-1, 3, 4).numpy()
    rays = np.stack((px, py, np.ones_like(px)))
    weights = np.linalg.solve(corners[:, :, [0, 1, 3]].transpose(0, 2, 1), rays[None])  # [F, 3, P], sum is 1 / w
    depth = (weights * corners[:, :, 2, None]).sum(1)
    seen = (weights > 0).all(1) & (abs(depth) <= 1)
    nearest = np.where(seen, depth, np.inf)
    face = np.where(seen.any(0), nearest.argmin(0), -1)
    assert (raster.face.flatten().numpy() == face).all()
    assert {-1} < set(face.tolist())
    for pixel in np.flatnonzero(face >= 0):
        weight = weights[face[pixel], :, pixel]
        np.testing.assert_allclose(raster.bary.view(-1, 3)[pixel], weight / weight.sum(), atol=2e-7)
        np.testing.assert_allclose(raster.depth.flatten()[pixel], nearest[:, pixel].min(), atol=2e-7, rtol=2e-7)


@each_backend
def test_a_receding_strip_in_closed_form(backend):
    """A floor from w = 1 to w = 4: halfway down the screen the weight is the perspective one, not the affine one."""
    clip = torch.tensor([[-1, -1, 0, 1], [1, -1, 0, 1], [-4, 4, 0, 4], [4, 4, 0, 4]], dtype=torch.float32)
    raster = draw(clip, torch.tensor([[0, 1, 2], [1, 3, 2]]), (64, 64), backend)
    share = (raster.bary * torch.tensor([[0.0, 0, 1], [0, 1, 1]])[raster.face.long()]).sum(-1).double()
    screen = (centers((64, 64))[1] + 1) / 2
    torch.testing.assert_close(share, (screen / 4) / (1 - screen + screen / 4), atol=1e-6, rtol=0)
    assert (raster.face >= 0).all()


@each_backend
def test_uv_layout_gives_texel_positions(backend):
    uv = torch.tensor([[0.1, 0.1], [0.9, 0.2], [0.4, 0.95]])
    raster = draw(flat(uv * 2 - 1), torch.tensor([[0, 1, 2]], dtype=torch.int32), (100, 50), backend)
    covered = raster.face == 0
    position = (raster.bary[..., None] * uv).sum(-2)
    wanted = torch.stack(
        ((torch.arange(50) + 0.5).expand(100, 50) / 50, 1 - (torch.arange(100) + 0.5)[:, None].expand(100, 50) / 100),
        -1,
    )
    torch.testing.assert_close(position[covered], wanted[covered], atol=1e-6, rtol=0)
    area = 0.5 * abs(0.8 * 0.85 - 0.1 * 0.3)
    assert abs(covered.float().mean() - area) < 0.01
    assert (raster.bary[covered] >= 0).all()
    torch.testing.assert_close(raster.bary[covered].sum(1), torch.ones(int(covered.sum())))


@each_backend
def test_nearest_face_wins_and_ties_go_to_the_lowest(backend):
    triangle = [[-1, -1], [3, -1], [-1, 3]]
    clip = torch.cat([flat(triangle, z) for z in (0.5, -0.25, -0.25, 0.75)])
    faces = torch.arange(12).view(4, 3)
    raster = draw(clip, faces, (5, 4), backend)
    assert (raster.face == 1).all()
    assert (raster.depth == -0.25).all()
    assert (draw(clip, faces.flip(0), (5, 4), backend).face == 1).all()
    assert (draw(clip, faces[[3, 0]], (5, 4), backend).face == 1).all()


@each_backend
def test_what_is_outside_near_and_far_is_cut_away(backend):
    """A plane whose depth runs from -2 to 2 across the picture keeps its middle half."""
    clip = torch.tensor([[-1, -1, -2, 1], [1, -1, 2, 1], [-1, 1, -2, 1], [1, 1, 2, 1]], dtype=torch.float32)
    face = draw(clip, torch.tensor([[0, 1, 2], [1, 3, 2]]), (4, 64), backend).face
    assert (face[:, 16:48] >= 0).all()
    assert (face[:, :16] == -1).all()
    assert (face[:, 48:] == -1).all()


@each_backend
def test_nothing_behind_the_camera_is_drawn(backend):
    clip = flat([[-1, -1], [3, -1], [-1, 3]])
    faces = torch.tensor([[0, 1, 2]])
    assert (draw(clip, faces, (4, 4), backend).face == 0).all()
    assert (draw(-clip, faces, (4, 4), backend).face == -1).all()


@each_backend
def test_faces_without_area_are_never_drawn(backend):
    center = (torch.arange(8) * 2 + 1) / 8 - 1
    vertices = flat(torch.stack((center, -center), dim=1) * 1.0)  # all on the picture's diagonal, on pixel centres
    faces = torch.cartesian_prod(*[torch.arange(8)] * 3)
    assert (draw(vertices, faces, (8, 8), backend).face == -1).all()
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(30, 4, generator=generator)
    doubled = torch.randint(0, 30, (200, 3), generator=generator)
    doubled[:, 1] = doubled[:, 2]
    assert (draw(points, doubled, (16, 16), backend).face == -1).all()


def test_the_determinant_of_no_area_is_zero_despite_rounding():
    """Corners that depend on each other, exactly in float32; sums of their products do not fit float64."""
    first, second = torch.randint(-(2**22), 2**22, (2, 1000, 4), generator=torch.Generator().manual_seed(0)).float()
    corners = torch.stack((first, second, first + second), dim=1).double()
    edges, det = edge_functions(corners)
    assert (det == 0).all()
    assert ((corners[:, 0, [0, 1, 3]] * edges[:, 0]).sum(1) != 0).any()
    corners[:, 2, 0] += 1
    assert (edge_functions(corners)[1] != 0).all()


@each_backend
@pytest.mark.parametrize("faces", [torch.zeros(0, 3, dtype=torch.int32), torch.zeros(0, 3, dtype=torch.int64)], ids=str)
@pytest.mark.parametrize("vertices", [0, 3])
def test_no_faces_give_an_empty_picture(backend, faces, vertices):
    raster = draw(torch.zeros(vertices, 4), faces, (5, 3), backend)
    assert (raster.face == -1).all()
    assert (raster.bary == 0).all()
    assert raster.depth.isposinf().all()
    assert raster.face.dtype == torch.int32
    assert (raster.bary.shape, raster.depth.shape) == ((5, 3, 3), (5, 3))


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(
    ("count", "size", "spread", "camera"),
    [
        (1, (1, 1), 2.0, 1.0),
        (63, (33, 47), 1.0, 2.0),
        (300, (65, 16), 0.7, 0.4),
        (1000, (100, 300), 0.05, 2.0),
        (70_000, (40, 40), 0.02, 2.0),
    ],
    ids=str,
)
def test_backends_give_the_same_bytes(backend, count, size, spread, camera):
    clip, faces = soup(count, seed=count, spread=spread, camera=camera)
    reference = draw(clip, faces, size)
    assert equal(reference, draw(clip, faces, size, backend))
    assert equal(reference, draw(clip, faces.long(), size, backend))
    assert count == 1 or (reference.face >= 0).float().mean() > 0.1


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the kernels run on it above")
@pytest.mark.parametrize("faces_dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize(
    ("count", "size", "spread", "camera"),
    [(0, (3, 4), 1.0, 1.0), (1, (1, 1), 2.0, 1.0), (90, (33, 47), 0.1, 2.0), (25, (30, 50), 0.7, 0.4)],
    ids=str,
)
def test_interpreted_triton_gives_the_same_bytes(count, size, spread, camera, faces_dtype):
    pytest.importorskip("triton")
    from comfyui_trellis2.o_voxel.ops.raster.kernel import rasterize_gpu

    clip, faces = soup(count, seed=count, spread=spread, camera=camera)
    assert equal(draw(clip, faces, size), Raster(*rasterize_gpu(clip, faces.to(faces_dtype), size)))


@each_backend
def test_the_same_input_gives_the_same_bytes_and_stays(backend):
    clip, faces = soup(200, seed=5)
    before = clip.clone(), faces.clone()
    assert equal(draw(clip, faces, (50, 50), backend), draw(clip, faces, (50, 50), backend))
    assert torch.equal(clip, before[0])
    assert torch.equal(faces, before[1])
    strided = torch.zeros(len(clip), 8)
    strided[:, ::2] = clip
    assert equal(draw(strided[:, ::2], faces, (50, 50), backend), draw(clip, faces, (50, 50), backend))


def test_wrong_input_raises():
    clip, faces = flat([[-1, -1], [3, -1], [-1, 3]]), torch.tensor([[0, 1, 2]])
    for bad in (torch.nan, torch.inf):
        broken = clip.clone()
        broken[1, 2] = bad
        with pytest.raises(ValueError, match="clip_vertices: expected finite"):
            rasterize(broken, faces, (4, 4))
    with pytest.raises(ValueError, match="faces: expected vertices 0 to 2, got 0 to 3"):
        rasterize(clip, torch.tensor([[0, 1, 3]]), (4, 4))
    with pytest.raises(ValueError, match="got -1"):
        rasterize(clip, torch.tensor([[0, 1, -1]]), (4, 4))
    with pytest.raises(ValueError, match=r"expected shape \[\*, 4\]"):
        rasterize(clip[:, :3], faces, (4, 4))
    with pytest.raises(ValueError, match="expected float32, got float64"):
        rasterize(clip.double(), faces, (4, 4))
    with pytest.raises(ValueError, match="faces: expected int32 or int64"):
        rasterize(clip, faces.short(), (4, 4))
    for size in ((0, 4), (4, 40000)):
        with pytest.raises(ValueError, match="size: expected"):
            rasterize(clip, faces, size)
    with pytest.raises(ValueError, match="backend"):
        rasterize(clip, faces, (4, 4), backend="opengl")
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor"):
        rasterize(clip.numpy(), faces, (4, 4))

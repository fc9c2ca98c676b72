"""Baked textures, sampled through the atlas, against the voxels and the dense surface they were baked from."""

import math
from dataclasses import fields, replace

import pytest
import torch
from comfyui_trellis2.o_voxel.bake.bake import bake
from comfyui_trellis2.o_voxel.bake.options import BakeOptions
from comfyui_trellis2.o_voxel.bake.tangent_space import TangentFrames
from comfyui_trellis2.o_voxel.core.grid import Grid
from comfyui_trellis2.o_voxel.material import UVMap
from comfyui_trellis2.o_voxel.mesh.normals import vertex_normals
from comfyui_trellis2.o_voxel.mesh.repair.orient import turn
from comfyui_trellis2.o_voxel.ops.closest_point import build_index, closest_point
from comfyui_trellis2.o_voxel.ops.grid_sample import grid_sample
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid
from comfyui_trellis2.o_voxel.values import Mesh, VoxelField

PLAIN = BakeOptions(resolution=128, normal_map=False)


def triangle_atlas(count, gap=0.1):
    """Atlas with one right triangle per face, two per cell of a square grid, separated by `gap` cells."""
    cells = math.ceil(math.sqrt((count + 1) // 2))
    face = torch.arange(count)
    origin = torch.stack([face // 2 % cells, face // 2 // cells], 1)
    lower = torch.tensor([[gap / 4, gap / 4], [1 - gap, gap / 4], [gap / 4, 1 - gap]])
    corners = torch.where((face % 2 == 0)[:, None, None], lower, 1 - lower)
    return UVMap(((origin[:, None] + corners) / cells).reshape(-1, 2), torch.arange(3 * count).view(-1, 3), face)


def flat_atlas(mesh):
    """One chart seen from above: u along x, v along y, the unit square."""
    return UVMap(mesh.vertices[:, :2].contiguous(), mesh.faces, torch.zeros_like(mesh.faces[:, 0]))


def paint(dense, grid, color, steps=8):
    """Six channels of `color` [N, 6], a function of the voxels' centres, on the voxels that the surface touches.

    steps: along a face's side, no longer than a voxel each.
    """
    corners = dense.vertices[dense.faces.long()]
    weights = torch.tensor([[a, b, steps - a - b] for a in range(steps + 1) for b in range(steps + 1 - a)]) / steps
    points = (corners[:, None] * weights[:, :, None]).sum(2).reshape(-1, 3)
    coords = torch.unique(grid.to_grid(points).floor().int(), dim=0)
    return VoxelField(coords, color(grid.centers(coords)), grid)


def ramp(points):
    """A different linear ramp across the unit cube per channel; opaque."""
    x, y, z = (points + 0.5).unbind(1)
    return torch.stack([x, y, z, 1 - x, 1 - y, torch.ones_like(x)], 1)


def constant(*values):
    return lambda points: torch.tensor(values, dtype=torch.float32).expand(len(points), 6).clone()


WHITE = constant(1, 1, 1, 1, 1, 1)


def texel_at(image, uv):
    """The texels [P, C] of an image [H, W, C] at uv [P, 2], v up."""
    height, width, _ = image.shape
    column = (uv[:, 0] * width).long().clamp(0, width - 1)
    row = ((1 - uv[:, 1]) * height).long().clamp(0, height - 1)
    return image[row, column]


def on_faces(baked, count=2000):
    """(points [P, 3], uv [P, 2], face [P], barycentric weights [P, 3]) sampled over a textured mesh."""
    generator = torch.Generator().manual_seed(1)
    face = torch.randint(0, len(baked.mesh.faces), (count,), generator=generator)
    weights = torch.rand(count, 3, generator=generator) + 0.05
    weights /= weights.sum(1, keepdim=True)
    points = (baked.mesh.vertices[baked.mesh.faces[face].long()] * weights[..., None]).sum(1)
    return points, (baked.uv[baked.uv_faces[face].long()] * weights[..., None]).sum(1), face, weights


def maps(baked):
    """The textures' images by name."""
    material = baked.materials[0]
    names = [f.name for f in fields(material) if f.name.endswith("_texture")]
    return {n.removesuffix("_texture"): getattr(material, n).image for n in names if getattr(material, n) is not None}


def same(first, second):
    one, other = maps(first), maps(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def ball(shapes):
    """(mesh, atlas, dense, field): a coarse sphere over a finer one, in a grid of 64."""
    mesh, dense = shapes.sphere(2, 0.4), shapes.sphere(4, 0.4)
    return mesh, triangle_atlas(len(mesh.faces)), dense, paint(dense, Grid.cube(64), ramp, steps=4)


@pytest.mark.slow
@pytest.mark.parametrize("supersample", [1, 2])
def test_textures_hold_what_the_voxels_do(ball, supersample):
    _, _, dense, field = ball
    baked = bake(*ball, replace(PLAIN, resolution=400, supersample=supersample))
    points, uv, _, _ = on_faces(baked)
    nearest = closest_point(build_index(dense), points)
    place = (dense.vertices[dense.faces[nearest.face].long()] * nearest.barycentric[..., None]).sum(1)
    wanted = grid_sample(field.attrs, hash_grid(field.coords), field.grid.to_grid(place)) * 255
    images = maps(baked)
    assert images.keys() == {"base_color", "metallic", "roughness"}
    for name, part in (("base_color", slice(0, 3)), ("metallic", slice(3, 4)), ("roughness", slice(4, 5))):
        error = (texel_at(images[name], uv).float() - wanted[:, part]).abs()
        assert error.max() <= 2
    assert (texel_at(images["base_color"].flip(0), uv).float() - wanted[:, :3]).abs().mean() > 20


def test_the_result_wears_what_was_given(ball):
    mesh, uv_map, _, _ = ball
    before = [part.clone() for part in (mesh.vertices, mesh.faces, uv_map.uv, ball[3].attrs, ball[3].coords)]
    baked = bake(*ball, PLAIN)
    assert baked.mesh is mesh
    assert baked.uv is uv_map.uv
    assert baked.uv_faces is uv_map.faces
    assert torch.equal(baked.normals, vertex_normals(mesh))
    after = (mesh.vertices, mesh.faces, uv_map.uv, ball[3].attrs, ball[3].coords)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.slow
def test_same_bytes_twice_and_on_every_backend(ball):
    options = BakeOptions(resolution=100, supersample=2, occlusion=True, occlusion_rays=8)
    first = bake(*ball, options)
    assert maps(first).keys() == {"base_color", "metallic", "roughness", "normal", "occlusion"}
    assert same(first, bake(*ball, options))
    other = maps(bake(*ball, replace(options, occlusion=False), backend="reference"))
    for name, image in other.items():
        assert (image.int() - maps(first)[name].int()).abs().max() <= 1


def test_samples_of_a_texel_are_averaged(shapes):
    """Voxels in black and white columns, two to a texel."""
    sheet = shapes.sheet(4)
    grid = Grid((32, 32, 1), (0, 0, -1 / 64), (1 / 32,) * 3)

    def stripes(points):
        return ((points[:, :1] * 32).floor() % 2).expand(-1, 6).contiguous()

    field = paint(shapes.sheet(32), grid, stripes)
    flat = replace(PLAIN, resolution=16, alpha_mode="OPAQUE")
    image = maps(bake(sheet, flat_atlas(sheet), sheet, field, replace(flat, supersample=4)))["base_color"].int()
    assert (image[:, 1:-1] - 128).abs().max() <= 1
    # Texels as wide as voxels each get their own voxel.
    image = maps(bake(sheet, flat_atlas(sheet), sheet, field, replace(flat, resolution=32)))["base_color"]
    assert image[5, :, 0].tolist() == [0, 255] * 16


def plate(shapes, height):
    """A red sheet facing up at `height`, and a blue one facing down at -height."""
    top, bottom = shapes.sheet(8), shapes.sheet(8)
    up = Mesh(top.vertices + torch.tensor([0, 0, height]), top.faces)
    down = Mesh(bottom.vertices - torch.tensor([0, 0, height]), bottom.faces[:, [0, 2, 1]])
    return shapes.stack(up, down)


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("sunk", [0.2, 0.9])
def test_sheets_a_voxel_and_a_half_apart_do_not_bleed(shapes, sunk, oriented):
    """`sunk`: depth of the mesh below the surface in voxels; 0.9 is nearer to the other sheet."""
    voxel = 1 / 32
    dense, mesh = plate(shapes, 0.75 * voxel), plate(shapes, (0.75 - sunk) * voxel)
    grid = Grid((32, 32, 8), (0, 0, -4 * voxel), (voxel,) * 3)

    def by_side(points):
        return torch.where(points[:, 2:] > 0, constant(1, 0, 0, 1, 0, 1)(points), constant(0, 0, 1, 0, 1, 1)(points))

    field = paint(dense, grid, by_side)
    uv_map = triangle_atlas(len(mesh.faces))
    half = len(mesh.faces) // 2

    def colours(options):
        baked = bake(mesh, uv_map, dense, field, options)
        _, uv, face, _ = on_faces(baked, 500)
        return texel_at(maps(baked)["base_color"], uv), face < half

    # Without orientation front and back are indistinguishable, so only a small depth can be correct.
    if oriented or sunk < 0.75:
        color, top = colours(replace(PLAIN, dense_oriented=oriented))
        assert (color[top] == torch.tensor([255, 0, 0])).all()
        assert (color[~top] == torch.tensor([0, 0, 255])).all()
    if sunk > 0.75:
        color, top = colours(replace(PLAIN, snap_min_cosine=-1.0))
        assert (color[top] == torch.tensor([0, 0, 255])).all()


def test_far_from_the_surface_the_field_is_read_where_the_texel_is(shapes):
    """A sheet with voxels of its own colour; the dense mesh is beyond the snap distance."""
    sheet, voxel = shapes.sheet(4), 1 / 16
    far = Mesh(sheet.vertices + torch.tensor([0, 0, 6 * voxel]), sheet.faces)
    grid = Grid((16, 16, 8), (0, 0, -voxel / 2), (voxel,) * 3)
    near, away = paint(sheet, grid, constant(1, 0, 0, 0, 0, 1)), paint(far, grid, constant(0, 0, 1, 0, 0, 1))
    both = VoxelField(torch.cat([near.coords, away.coords]), torch.cat([near.attrs, away.attrs]), grid)
    uv_map = flat_atlas(sheet)
    red = maps(bake(sheet, uv_map, far, both, PLAIN))["base_color"]
    assert (red == torch.tensor([255, 0, 0], dtype=torch.uint8)).all()
    blue = maps(bake(sheet, uv_map, far, both, replace(PLAIN, snap_voxels=7.0)))["base_color"]
    assert (blue == torch.tensor([0, 0, 255], dtype=torch.uint8)).all()


def test_texels_with_no_voxel_near_take_the_nearest_texels_value(shapes):
    sheet = shapes.sheet(4)
    field = paint(sheet, Grid((16, 16, 1), (0, 0, -1 / 32), (1 / 16,) * 3), lambda p: ramp(p - 0.5))
    kept = field.coords[:, 0] < 8
    holed = VoxelField(field.coords[kept], field.attrs[kept], field.grid)
    whole, part = (maps(bake(sheet, flat_atlas(sheet), sheet, f, PLAIN))["base_color"].int() for f in (field, holed))
    # The last voxel extends half a voxel, four texels, beyond its rim; the mean of all would be red 63.
    assert torch.equal(part[:, :60], whole[:, :60])
    assert (part[:, 68:] == part[:, 67:68]).all()
    assert (part[:, 127, 0] == round(255 * 7.5 / 16)).all()


def test_a_flat_sheet_has_a_flat_normal_map(shapes):
    sheet = shapes.sheet(4)
    field = paint(sheet, Grid((8, 8, 1), (0, 0, -1 / 16), (1 / 8,) * 3), WHITE)
    for uv_map in (flat_atlas(sheet), triangle_atlas(len(sheet.faces))):
        baked = bake(sheet, uv_map, shapes.sheet(9), field, BakeOptions(resolution=64))
        assert (maps(baked)["normal"] == torch.tensor([128, 128, 255], dtype=torch.uint8)).all()


def test_slopes_lean_the_way_that_gltf_says(shapes):
    """Seen from above with u along x and v along y, slopes facing +x are red and slopes facing +y green."""
    sheet, hill = shapes.sheet(8), shapes.sheet(32, bump=0.15)
    field = paint(hill, Grid((16, 16, 8), (0, 0, -1 / 16), (1 / 16,) * 3), WHITE)
    options = BakeOptions(resolution=64, snap_voxels=4.0)
    normal = maps(bake(sheet, flat_atlas(sheet), hill, field, options))["normal"].int()
    assert normal[32, 56, 0] > 150 > 105 > normal[32, 8, 0]
    # Row 8 is near v = 1, where the hill faces +y.
    assert normal[8, 32, 1] > 150 > 105 > normal[56, 32, 1]


def decoded(baked, uv, face, weights):
    """World normals [P, 3] as decoded by a reader: MikkTSpace, normalised only at the end."""
    frames = TangentFrames.of(baked.mesh, UVMap(baked.uv, baked.uv_faces, baked.uv_faces[:, 0]), baked.normals)
    up = (frames.normal[face] * weights[..., None]).sum(1)
    tangent = (frames.tangent[face] * weights[..., None]).sum(1)
    across = torch.linalg.cross(up, tangent[:, :3]) * tangent[:, 3:].sign()
    x, y, z = (texel_at(maps(baked)["normal"], uv).float() / 127.5 - 1).unbind(1)
    out = x[:, None] * tangent[:, :3] + y[:, None] * across + z[:, None] * up
    return torch.nn.functional.normalize(out, dim=1)


def angles_deg(a, b):
    return torch.rad2deg(torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(1)))


@pytest.mark.slow
def test_a_reader_gets_the_dense_normals_back(shapes):
    """A bumpy sphere baked to a coarse one: bumps of about 8 degrees are recovered to one degree."""
    mesh, dense = shapes.sphere(2, 0.4), shapes.sphere(5, 0.4)
    direction = torch.nn.functional.normalize(dense.vertices, dim=1)
    dense = Mesh(dense.vertices * (1 + 0.012 * torch.sin(12 * direction).prod(1, keepdim=True)), dense.faces)
    field = paint(dense, Grid.cube(32), WHITE, steps=1)
    baked = bake(mesh, triangle_atlas(len(mesh.faces)), dense, field, BakeOptions(resolution=512))
    points, uv, face, weights = on_faces(baked)
    nearest = closest_point(build_index(dense), points)
    rows = dense.faces[nearest.face].long()
    wanted = (vertex_normals(dense)[rows] * nearest.barycentric[..., None]).sum(1)
    error = angles_deg(decoded(baked, uv, face, weights), torch.nn.functional.normalize(wanted, dim=1))
    coarse = (baked.normals[mesh.faces[face].long()] * weights[..., None]).sum(1)
    without = angles_deg(torch.nn.functional.normalize(coarse, dim=1), wanted)
    assert error.mean() < 1.0
    assert without.mean() > 5 * error.mean()


@pytest.mark.slow
def test_a_mirrored_atlas_decodes_too(shapes):
    mesh = shapes.sphere(1, 0.4)
    dense = shapes.sphere(3, 0.4)
    field = paint(dense, Grid.cube(16), WHITE)
    uv_map = triangle_atlas(len(mesh.faces))
    turned = uv_map.uv.clone().view(-1, 3, 2)
    turned[::3] = turned[::3][:, [0, 2, 1]]
    uv_map = replace(uv_map, uv=turned.view(-1, 2))
    baked = bake(mesh, uv_map, dense, field, BakeOptions(resolution=512, snap_voxels=3.0))
    points, uv, face, weights = on_faces(baked)
    error = angles_deg(decoded(baked, uv, face, weights), torch.nn.functional.normalize(points, dim=1))
    assert error.mean() < 1.5


@pytest.mark.slow
def test_an_unoriented_surface_bakes_by_its_faces(shapes):
    mesh, dense = shapes.sphere(2, 0.4), shapes.sphere(4, 0.4)
    field = paint(dense, Grid.cube(32), ramp)
    mixed = shapes.scramble(dense)
    options = BakeOptions(resolution=256, dense_oriented=False)
    given = mesh, triangle_atlas(len(mesh.faces))
    clean, baked = (bake(*given, surface, field, options) for surface in (dense, mixed))
    assert all((image.int() - maps(clean)[name].int()).abs().max() <= 1 for name, image in maps(baked).items())
    points, uv, face, weights = on_faces(baked)
    error = angles_deg(decoded(baked, uv, face, weights), torch.nn.functional.normalize(points, dim=1))
    assert error.mean() < 3


def mips(image):
    """All smaller mip levels of an image [H, W, C], by 2 x 2 means."""
    level = image.float()
    while len(level) > 1:
        level = level.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((1, 3))
        yield level


def test_no_mip_level_has_background(shapes):
    """White charts far apart in an atlas: white on every level."""
    mesh = shapes.sphere(1, 0.4)
    dense = shapes.sphere(3, 0.4)
    field = paint(dense, Grid.cube(32), WHITE)
    uv_map = triangle_atlas(len(mesh.faces), gap=0.6)
    uv_map = replace(uv_map, uv=uv_map.uv * 0.4 + 0.3)
    images = maps(bake(mesh, uv_map, dense, field, BakeOptions(resolution=128)))
    for level in (images["base_color"].float(), *mips(images["base_color"])):
        assert (level == 255).all()
    assert (images["normal"][..., 2] > 128).all()


def test_faces_without_area_in_the_atlas_paint_nothing(shapes):
    sheet = shapes.sheet(4)
    field = paint(sheet, Grid((16, 16, 1), (0, 0, -1 / 32), (1 / 16,) * 3), lambda p: ramp(p - 0.5))
    uv_map = flat_atlas(sheet)
    clean = maps(bake(sheet, uv_map, sheet, field, PLAIN))
    # UVs of a needle across the atlas, and of a point, for a face with area on the mesh.
    uv = torch.cat([uv_map.uv, torch.tensor([[0.0, 0], [1, 1], [0.5, 0.5]])])
    n = len(uv)
    more = torch.tensor([[n - 3, n - 2, n - 1], [n - 1, n - 1, n - 1]], dtype=torch.int32)
    faces = torch.cat([more, uv_map.faces])
    mesh = Mesh(sheet.vertices, torch.cat([sheet.faces[:2], sheet.faces]))
    baked = bake(mesh, UVMap(uv, faces, torch.zeros_like(faces[:, 0])), sheet, field, PLAIN)
    assert all(torch.equal(image, clean[name]) for name, image in maps(baked).items())


def test_a_chart_smaller_than_a_texel_keeps_its_colour(shapes):
    """One red triangle, and a blue one between the texels' centres."""
    mesh = shapes.mesh([[0.1, 0.1, 0], [0.4, 0.1, 0], [0.1, 0.4, 0], [0.6, 0.6, 0], [0.9, 0.6, 0], [0.6, 0.9, 0]],
                       [[0, 1, 2], [3, 4, 5]])  # fmt: skip

    def by_side(points):
        far = points[:, :1] > 0.5
        return torch.where(far, constant(0, 0, 1, 0, 0, 1)(points), constant(1, 0, 0, 0, 0, 1)(points))

    field = paint(mesh, Grid((8, 8, 1), (0, 0, -1 / 16), (1 / 8,) * 3), by_side)
    tiny = 1 / 32
    uv = torch.tensor([[0.05, 0.05], [0.5, 0.05], [0.05, 0.5], [0.75, 0.75], [0.75 + tiny, 0.75], [0.75, 0.75 + tiny]])
    image = maps(bake(mesh, UVMap(uv, mesh.faces, torch.arange(2)), mesh, field, replace(PLAIN, resolution=8)))
    at = texel_at(image["base_color"], torch.tensor([[0.76, 0.76], [0.2, 0.2]]))
    assert at.tolist() == [[0, 0, 255], [255, 0, 0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "low", "mode"),
    [(0.005, 0.0, "OPAQUE"), (1.0, 0.95, "OPAQUE"), (0.3, 0.0, "MASK"), (0.3, 0.5, "BLEND"), (1.0, 0.5, "BLEND")],
)
def test_alpha_decides_its_mode(shapes, share, low, mode):
    sheet = shapes.sheet(4)

    def alpha(points):
        values = torch.ones(len(points), 6)
        values[points[:, 0] < share, 5] = low
        return values

    field = paint(shapes.sheet(64), Grid((128, 128, 1), (0, 0, -1 / 256), (1 / 128,) * 3), alpha)
    material = bake(sheet, flat_atlas(sheet), sheet, field, PLAIN).materials[0]
    assert material.alpha_mode == mode
    assert (material.alpha_texture is None) == (mode == "OPAQUE")
    forced = bake(sheet, flat_atlas(sheet), sheet, field, replace(PLAIN, alpha_mode="BLEND")).materials[0]
    assert forced.alpha_mode == "BLEND"
    assert abs(int(forced.alpha_texture.image[64, 0, 0]) - round(255 * low)) <= 1


@pytest.mark.slow
def test_light_reaches_the_outside_of_a_box_and_not_its_inside(shapes):
    box = shapes.box()
    inner = Mesh(box.vertices * 0.8, turn(box.faces, torch.ones(len(box.faces), dtype=torch.bool)))
    both = shapes.stack(box, inner)
    field = paint(both, Grid((32,) * 3, (-0.8,) * 3, (0.05,) * 3), WHITE)
    flat = vertex_normals(both)
    options = BakeOptions(resolution=128, normal_map=False, occlusion=True, occlusion_rays=32)
    baked = bake(both, triangle_atlas(len(both.faces)), both, field, options, normals=flat)
    _, uv, face, _ = on_faces(baked)
    light = texel_at(maps(baked)["occlusion"], uv)[:, 0]
    assert light[face < 12].float().mean() > 250
    assert (light[face >= 12] == 0).all()


def test_one_triangle(shapes):
    mesh = shapes.mesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    field = paint(mesh, Grid((8, 8, 1), (0, 0, -1 / 16), (1 / 8,) * 3), constant(0.2, 0.4, 0.6, 0, 1, 1))
    images = maps(
        bake(mesh, flat_atlas(mesh), mesh, field, BakeOptions(resolution=1, occlusion=True, occlusion_rays=8))
    )
    assert {name: image.flatten().tolist() for name, image in images.items()} == {
        "base_color": [51, 102, 153], "metallic": [0], "roughness": [255], "normal": [128, 128, 255],
        "occlusion": [255],
    }  # fmt: skip


def test_progress_grows_and_may_stop_the_work(ball):
    done = []
    bake(*ball, BakeOptions(resolution=32, occlusion=True, occlusion_rays=4), progress=done.append)
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)

    def stop(share):
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bake(*ball, PLAIN, progress=stop)


def test_half_precision_voxels_and_wide_faces(ball):
    mesh, uv_map, dense, field = ball
    halves = replace(field, attrs=field.attrs.half())
    wide = Mesh(mesh.vertices, mesh.faces.long())
    first, second = bake(wide, uv_map, dense, halves, PLAIN), bake(*ball, PLAIN)
    off = (maps(first)["base_color"].int() - maps(second)["base_color"].int()).abs()
    assert off.max() <= 1


def no_rows(mesh):
    return Mesh(mesh.vertices, mesh.faces[:0])


def with_nan(values):
    return torch.cat([torch.full_like(values[:1], torch.nan), values[1:]])


def bent(ball, name):
    """`ball` with a single fault."""
    mesh, uv_map, dense, field = ball
    meta = torch.device("meta")
    changes = {
        "no faces": {0: no_rows(mesh), 1: UVMap(uv_map.uv, uv_map.faces[:0], uv_map.chart[:0])},
        "no dense faces": {2: no_rows(dense)},
        "no voxels": {3: VoxelField(field.coords[:0], field.attrs[:0], field.grid)},
        "voxels elsewhere": {3: replace(field, grid=Grid((64,) * 3, (9.0,) * 3, (0.01,) * 3))},
        "another device": {3: replace(field, coords=field.coords.to(meta))},
        "dense on another device": {2: Mesh(dense.vertices.to(meta), dense.faces.to(meta))},
        "a flat atlas": {1: replace(uv_map, uv=uv_map.uv * 0)},
        "uv outside": {1: replace(uv_map, uv=uv_map.uv * 2)},
        "uv NaN": {1: replace(uv_map, uv=with_nan(uv_map.uv))},
        "uv rows": {1: replace(uv_map, faces=uv_map.faces + 1)},
        "fewer uv faces": {1: UVMap(uv_map.uv, uv_map.faces[1:], uv_map.chart[1:])},
        "mesh NaN": {0: Mesh(with_nan(mesh.vertices), mesh.faces)},
        "dense NaN": {2: Mesh(with_nan(dense.vertices), dense.faces)},
        "field NaN": {3: replace(field, attrs=with_nan(field.attrs))},
        "three channels": {3: replace(field, attrs=field.attrs[:, :3])},
    }
    return [changes[name].get(i, part) for i, part in enumerate(ball)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("no faces", "mesh.faces: expected at least one row, got none"),
        ("no dense faces", "dense.faces: expected at least one row"),
        ("no voxels", "field.coords: expected at least one row"),
        ("voxels elsewhere", "field: expected voxels near the mesh, got none"),
        ("another device", "field.coords: expected cpu like the mesh, got meta"),
        ("dense on another device", "dense.vertices: expected cpu like the mesh, got meta"),
        ("a flat atlas", "uv_map: expected faces with an area in the atlas, got none"),
        ("uv outside", r"uv_map.uv: expected an atlas in \[0, 1\], got .* to 1"),
        ("uv NaN", r"uv_map.uv: expected an atlas in \[0, 1\], got nan"),
        ("uv rows", "uv_map.faces: expected rows 0 to 959 of uv, got 1 to 960"),
        ("fewer uv faces", "uv_map.faces: expected 320 rows like the mesh, got 319"),
        ("mesh NaN", "mesh: expected finite vertices"),
        ("dense NaN", "mesh.vertices: expected finite positions"),
        ("field NaN", "field.attrs: expected finite values"),
        ("three channels", r"field.attrs: expected shape \[\*, 6\], got \[.*, 3\]"),
    ],
)
def test_malformed(ball, wrong, message):
    with pytest.raises(ValueError, match=message):
        bake(*bent(ball, wrong), PLAIN)


def test_malformed_normals_and_options(ball):
    with pytest.raises(ValueError, match="normals: expected finite vectors"):
        bake(*ball, PLAIN, normals=with_nan(vertex_normals(ball[0])))
    with pytest.raises(ValueError, match="normals: expected shape"):
        bake(*ball, PLAIN, normals=torch.zeros(1, 3))
    wrong = {
        "resolution": 0, "supersample": 3, "snap_voxels": math.nan, "snap_min_cosine": 2.0, "occlusion_rays": 0,
        "occlusion_reach": 0.0, "alpha_mode": "blend",
    }  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"BakeOptions.{name}: expected .*, got {value}|got '{value}'"):
            BakeOptions(**{name: value})

"""Manifold dual contouring on random fields with all cube cases and pairs of neighbouring cases."""

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.connectivity.components import face_components
from comfyui_trellis2.o_voxel.mesh.connectivity.manifold import split_non_manifold
from comfyui_trellis2.o_voxel.mesh.remesh.contour import contour, cut_quads
from comfyui_trellis2.o_voxel.mesh.remesh.contour_tables import contour_tables
from comfyui_trellis2.o_voxel.mesh.remesh.sparse_sdf import SparseSDF
from comfyui_trellis2.o_voxel.values import Mesh
from scipy import ndimage

BLOCKS = 5


def to_field(values):
    """A field of values [4 n, 4 n, 4 n] in the middle of a grid of n + 2 blocks a side."""
    n = len(values) // 4
    coords = torch.cartesian_prod(*[torch.arange(1, n + 1, dtype=torch.int32)] * 3)
    rows = values.reshape(n, 4, n, 4, n, 4).permute(0, 2, 4, 1, 3, 5).reshape(n**3, 64)
    table = torch.full((n + 2,) * 3, n**3, dtype=torch.int32)
    table[tuple(coords.long().unbind(1))] = torch.arange(n**3, dtype=torch.int32)
    return SparseSDF(table, coords, torch.cat([rows, torch.tensor([[1.0], [-1.0]]).expand(2, 64)]))


def surface(field):
    """(vertices, faces), quads cut along their shorter diagonals."""
    shell = contour(field)
    return shell.vertices, cut_quads(shell, shell.vertices, torch.zeros_like(shell.vertices))


def noise(share, seed):
    values = torch.rand([4 * BLOCKS] * 3, generator=torch.Generator().manual_seed(seed)) - share
    values[[0, -1]] = values[:, [0, -1]] = values[:, :, [0, -1]] = 1.0
    return values


def signed_volume(vertices, faces):
    a, b, c = vertices.double()[faces.long()].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_noise_gives_a_manifold(share):
    values = noise(share, 1)
    vertices, faces = surface(to_field(values))
    half = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).long()
    keys = half[:, 0] << 32 | half[:, 1]
    assert len(keys.unique()) == len(keys)  # one face on each side of an edge,
    assert torch.equal(keys.sort().values, (half[:, 1] << 32 | half[:, 0]).sort().values)  # and one on the other
    split, _ = split_non_manifold(Mesh(vertices, faces))
    assert len(split.vertices) == len(vertices)
    # Every vertex is used.
    assert torch.equal(faces.unique().long(), torch.arange(len(vertices)))
    assert signed_volume(vertices, faces) > 0


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.8])
def test_as_many_surfaces_as_the_grid_has(share):
    """Outside is connected along grid edges, inside also across faces; each surface has one component on each side."""
    values = noise(share, 2)
    vertices, faces = surface(to_field(values))
    inside = torch.nn.functional.pad(values <= 0, (1,) * 6).numpy()
    regions = ndimage.label(~inside)[1] + ndimage.label(inside, ndimage.generate_binary_structure(3, 2))[1]
    surfaces = len(face_components(Mesh(vertices, faces)).unique())
    assert surfaces == regions - 1
    assert surfaces > 5


def test_where_it_crosses():
    """A ball: vertices accurate to second order, outward faces, correct volume."""
    axis = torch.arange(20.0) - 9.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    vertices, faces = surface(to_field((x * x + y * y + z * z).sqrt() - 7.3))
    radius = (vertices - 4 - 9.5).norm(dim=1)
    assert (radius - 7.3).abs().max() < 0.06
    assert signed_volume(vertices, faces) == pytest.approx(4 / 3 * torch.pi * 7.3**3, rel=0.03)


def test_one_point():
    values = torch.ones(4, 4, 4)
    values[1, 2, 3] = -1.0
    vertices, faces = surface(to_field(values))
    assert (len(vertices), len(faces)) == (8, 12)
    torch.testing.assert_close(vertices.mean(0), torch.tensor([5.0, 6.0, 7.0]))
    assert signed_volume(vertices, faces) > 0


def test_nothing():
    vertices, faces = surface(to_field(torch.ones(4, 4, 4)))
    assert vertices.shape == (0, 3)
    assert faces.shape == (0, 3)


def test_the_tables():
    sheets, of_edge, twice = contour_tables(torch.device("cpu"))
    assert int(sheets[0]) == int(sheets[255]) == 0
    assert int(sheets.max()) == 4
    # Opposite corners of the cube inside: two sheets; of a face: one, connected; its complement: two.
    assert sheets[[0b10000001, 0b00001001, 0b11110110]].tolist() == [2, 1, 2]
    assert torch.equal(of_edge.amax(1), (sheets - 1).clamp_min(0))
    # Ambiguous face: around both inside corners the sheet crosses it twice, around outside ones it does not.
    assert twice[[0b00001001, 0b00000011, 0b10000001]].tolist() == [True, False, False]
    # A cube and its mirror image have as many sheets.
    mirrored = [sum((case >> corner & 1) << (corner ^ 4) for corner in range(8)) for case in range(256)]
    assert torch.equal(sheets[mirrored], sheets)

import math

import pytest
import torch
from comfyui_trellis2.o_voxel.mesh.uv.parameterize import color_vertices
from comfyui_trellis2.o_voxel.ops.parameterize import distortion, relax

from ..shapes import sheet

BACKENDS = ["numba", "reference", "triton"]


def squares(made):
    corners = made.vertices[made.faces.long()].double()
    return (corners.roll(-1, 1) - corners).square().sum(2)


def crumpled(n, amount, seed=0):
    """A flat sheet of n x n quads, moved off its rest shape; its faces, rest lengths and colours."""
    made = sheet(n)
    faces = made.faces.long()
    noise = torch.randn(len(made.vertices), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    position = made.vertices[:, :2].double() + amount / n * noise
    return position, faces, squares(made), color_vertices(faces, len(position))


def on(device_backend, *tensors):
    device = "cuda" if device_backend == "triton" and torch.cuda.is_available() else "cpu"
    return [tensor.to(device) for tensor in tensors]


def relaxed(backend, position, faces, rest, color, sweeps=4):
    if backend == "triton" and not torch.cuda.is_available():
        from comfyui_trellis2.o_voxel.ops.parameterize.kernel import relax_gpu

        return relax_gpu(position, faces, rest, color, sweeps)
    arguments = on(backend, position, faces, rest, color, torch.zeros_like(color))
    return relax(*arguments, sweeps, backend=backend).cpu()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [0, 1, 5, 12])
def test_backends_agree(backend, n):
    case = crumpled(max(n, 1), 0.1) if n else tuple(part[:0] for part in crumpled(1, 0.1))
    expected = relax(*case, torch.zeros_like(case[3]), 2, backend="reference")
    assert torch.allclose(relaxed(backend, *case, sweeps=2) if n else case[0], expected, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_crumpled_sheet_becomes_flat_again(backend):
    position, faces, rest, color = crumpled(3, 0.12)
    before = distortion(position, faces, rest)[1]
    after = distortion(relaxed(backend, position, faces, rest, color, 10), faces, rest)[1]
    assert float((after - 1).abs().max()) < 0.05 < float((before - 1).abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_turned_over_faces_are_turned_back(backend):
    position, faces, rest, color = crumpled(3, 0.0)
    middle = int((position - 0.4).norm(dim=1).argmin())
    position[middle] += 0.5  # past its neighbours
    assert bool((distortion(position, faces, rest)[0] < 0).any())
    moved = relaxed(backend, position, faces, rest, color, 8)
    assert bool((distortion(moved, faces, rest)[0] > 0.5).all())


def test_distortion_of_known_maps():
    position = torch.tensor([[0.0, 0], [1, 0], [0, 1]], dtype=torch.float64)
    faces, rest = torch.tensor([[0, 1, 2]]), torch.tensor([[1.0, 2, 1]], dtype=torch.float64)
    det, stretch = distortion(position * torch.tensor([2.0, 0.5], dtype=torch.float64), faces, rest)
    assert math.isclose(float(det), 1.0) and math.isclose(float(stretch), math.sqrt((4 + 0.25) / 2))
    assert torch.isinf(distortion(position * torch.tensor([-1.0, 1.0]), faces, rest)[1]).all()


def test_colors_differ_around_every_face():
    faces = sheet(9).faces.long()
    color = color_vertices(faces, 100)
    assert int(color.min()) == 0 and bool((color[faces] != color[faces.roll(1, 1)]).all())


def test_other_shapes_are_refused():
    position, faces, rest, color = crumpled(2, 0.0)
    with pytest.raises(ValueError, match="rest"):
        relax(position, faces, rest[:-1], color, color, 1)
    with pytest.raises(ValueError, match="sweeps"):
        relax(position, faces, rest, color, color, -1)

"""The nearest covered texel against all distances."""

import pytest
import torch
from comfyui_trellis2.o_voxel.ops.nearest_texel import nearest_texel
from comfyui_trellis2.o_voxel.ops.nearest_texel.reference import nearest_columns, nearest_rows

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = [(1, 1), (1, 63), (63, 1), (7, 40), (31, 33)]
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
backends = pytest.mark.parametrize("backend", ["numba", "reference"])


def speckles(size, share, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) < share


def squares(covered):
    """[H, W, N] squared distances from each texel to the N covered ones."""
    y, x = (torch.arange(n) for n in covered.shape)
    rows, columns = covered.nonzero().unbind(1)
    return (y[:, None, None] - rows) ** 2 + (x[None, :, None] - columns) ** 2


@sizes
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@backends
def test_nothing_is_nearer(size, share, backend):
    covered = speckles(size, share)
    covered[size[0] // 2, size[1] // 3] = True
    found = nearest_texel(covered, backend=backend).long()
    y, x = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    assert covered.flatten()[found].all()
    square = (found // size[1] - y) ** 2 + (found % size[1] - x) ** 2
    assert torch.equal(square, squares(covered).amin(2))
    assert torch.equal(found[covered], (y * size[1] + x)[covered])


@sizes
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2])
def test_backends_give_the_same_bytes(size, share):
    for seed in range(5):
        covered = speckles(size, share, seed)
        assert torch.equal(nearest_texel(covered, backend="numba"), nearest_texel(covered, backend="reference"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 63), (13, 17)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_the_kernel_gives_the_same_bytes(size, share):
    """The Triton kernel, run as it is: on a GPU, or in the interpreter."""
    from comfyui_trellis2.o_voxel.ops.nearest_texel.kernel import nearest_columns_gpu

    rows = nearest_rows(speckles(size, share))
    assert torch.equal(nearest_columns_gpu(rows.to(DEVICE)).cpu(), nearest_columns(rows))


@backends
def test_ties_go_to_the_nearer_column_then_left_then_up(backend):
    covered = torch.zeros(5, 5, dtype=torch.bool)
    covered[0, 2] = covered[4, 2] = covered[2, 0] = covered[2, 4] = True
    assert nearest_texel(covered, backend=backend)[2, 2] == 2
    covered[0, 2] = covered[4, 2] = False
    assert nearest_texel(covered, backend=backend)[2, 2] == 10


@backends
def test_nothing_covered_and_nothing_at_all(backend):
    assert (nearest_texel(torch.zeros(3, 4, dtype=torch.bool), backend=backend) == -1).all()
    for size in ((0, 0), (0, 5), (5, 0)):
        assert nearest_texel(torch.zeros(size, dtype=torch.bool), backend=backend).shape == size


def test_malformed():
    with pytest.raises(ValueError, match="covered: expected bool, got uint8"):
        nearest_texel(torch.zeros(3, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected sides of at most 16384"):
        nearest_texel(torch.zeros(1, 16385, dtype=torch.bool))

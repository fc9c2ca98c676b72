import pytest
import torch
from comfyui_trellis2.o_voxel.ops.connected_components import connected
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

CUDA = torch.cuda.is_available()


def labels(backend, count, first, second):
    if backend == "triton" and not CUDA:
        from comfyui_trellis2.o_voxel.ops.connected_components.kernel import connected_gpu

        return connected_gpu(count, first, second)
    device = "cuda" if backend == "triton" else "cpu"
    return connected(count, first.to(device), second.to(device), backend=backend).cpu()


def expected(count, first, second):
    graph = coo_matrix((torch.ones(len(first)).numpy(), (first.numpy(), second.numpy())), shape=(count, count))
    label = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    lowest = torch.full((count,), count).scatter_reduce(0, label, torch.arange(count), "amin")
    return lowest[label]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["triton", "numba", "reference"])
@pytest.mark.parametrize(("count", "links"), [(1, 0), (63, 20), (1000, 400), (1000, 1500)])
def test_random_graphs(backend, count, links):
    generator = torch.Generator().manual_seed(links)
    first, second = (torch.randint(count, (links,), generator=generator) for _ in range(2))
    assert torch.equal(labels(backend, count, first, second), expected(count, first, second))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["triton", "numba", "reference"])
def test_long_chains_and_loops(backend):
    count = 200
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    for first in (torch.arange(count), order):
        second = first.roll(1)
        assert not labels(backend, count, first, second).any()


def test_no_nodes():
    none = torch.zeros(0, dtype=torch.int64)
    assert connected(0, none, none).shape == (0,)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="second"):
        connected(3, torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))

"""The index over voxels against a dictionary."""

import pytest
import torch
from comfyui_trellis2.o_voxel.ops.hash_grid import hash_grid, pack_keys

SIZES = (0, 1, 63, 1000)
WIDTH = {3: 12, 4: 7}  # by dims
TOP = 64_999  # the largest coordinate

sizes = pytest.mark.parametrize("n", SIZES)
dims = pytest.mark.parametrize("dims", [3, 4])


def voxels(n, dims, top=None):
    """n different coordinates in no order, on a small grid."""
    drawn = torch.randint(
        0, top or WIDTH[dims], (3 * n + 8, dims), generator=torch.Generator().manual_seed(n), dtype=torch.int32
    )
    unique = torch.unique(drawn, dim=0)
    return unique[torch.randperm(len(unique), generator=torch.Generator().manual_seed(1))[:n]]


def queries(dims):
    """Coordinates on that grid and around it."""
    generator = torch.Generator().manual_seed(2)
    return torch.randint(-2, WIDTH[dims] + 2, (2000, dims), generator=generator, dtype=torch.int32)


def looked_up(coords, query):
    row = {}
    for i, voxel in enumerate(coords.tolist()):
        row.setdefault(tuple(voxel), i)
    return torch.tensor([row.get(tuple(voxel), -1) for voxel in query.tolist()], dtype=torch.int64)


@sizes
@dims
def test_finds_what_a_dictionary_finds(n, dims):
    coords = voxels(n, dims)
    query = queries(dims)
    found = hash_grid(coords).find(query)
    assert found.dtype == torch.int64
    assert torch.equal(found, looked_up(coords, query))
    assert torch.equal(hash_grid(coords).find(coords), torch.arange(len(coords)))


@dims
def test_some_are_found_and_some_are_not(dims):
    """Else the test above could not fail."""
    coords = voxels(1000, dims)
    assert len(coords) == 1000
    share = (looked_up(coords, queries(dims)) >= 0).float().mean()
    assert 0.01 < share < 0.9


def test_the_first_of_equal_voxels_is_found():
    coords = torch.tensor([[5, 5, 5], [1, 2, 3], [5, 5, 5], [1, 2, 3], [1, 2, 3]])
    assert hash_grid(coords).find(coords).tolist() == [0, 1, 0, 1, 1]
    many = torch.randint(0, 2, (1000, 3), generator=torch.Generator().manual_seed(0))
    assert torch.equal(hash_grid(many).find(many), looked_up(many, many))


def test_the_ends_of_the_range():
    corners = torch.cartesian_prod(*[torch.tensor([0, 1, 255, 256, TOP])] * 3)
    index = hash_grid(corners)
    assert torch.equal(index.find(corners), torch.arange(len(corners)))
    far = [-1, TOP + 1, 65_535, 65_536, 2**31 - 1, -(2**31)]
    for axis in range(3):
        for value in far:
            query = corners.clone()
            query[:, axis] = value
            assert (index.find(query) == -1).all()


def test_what_is_outside_the_range_is_never_found():
    outside = torch.tensor([[-1, 1, 1], [1, TOP + 1, 1], [1, 1, -7]])
    assert hash_grid(outside).find(outside).tolist() == [-1, -1, -1]
    assert hash_grid(torch.tensor([[0, 0, 0], [-1, 0, 0]])).find(torch.tensor([[0, 0, 0], [0, -1, 0]])).tolist() == [
        0,
        -1,
    ]


def test_items_of_a_batch_are_apart():
    coords = torch.tensor([[0, 1, 2, 3], [1, 1, 2, 3], [300, 1, 2, 3]], dtype=torch.int32)
    index = hash_grid(coords)
    assert index.find(coords).tolist() == [0, 1, 2]
    assert index.find(torch.tensor([[2, 1, 2, 3], [-1, 1, 2, 3]])).tolist() == [-1, -1]


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_the_ends_of_the_batch(backend):
    """From 2**15 on the keys are negative. Under Triton the table of the kernel, also without a GPU."""
    batches = torch.tensor([0, 1, 32_767, 32_768, 40_000, TOP])
    coords = torch.cartesian_prod(batches, *[torch.tensor([0, TOP])] * 3).int()
    absent = torch.tensor([[-1, 0, 0, 0], [TOP + 1, 0, 0, 0], [65_535] * 4, [32_769, 0, 0, 0]], dtype=torch.int32)
    if backend == "triton":
        from comfyui_trellis2.o_voxel.ops.hash_grid.kernel import build_table, find

        device = "cuda" if torch.cuda.is_available() else "cpu"
        table = build_table(coords.to(device))
        rows, none = (find(*table, query.to(device)).cpu() for query in (coords, absent))
    else:
        index = hash_grid(coords, backend=backend)
        rows, none = index.find(coords), index.find(absent)
    assert torch.equal(rows, torch.arange(len(coords)))
    assert none.tolist() == [-1] * 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integer_types(dtype):
    coords = voxels(63, 3)
    index = hash_grid(coords.to(dtype))
    assert torch.equal(index.find(coords), torch.arange(63))
    assert torch.equal(hash_grid(coords).find(coords.to(dtype)), torch.arange(63))


def test_query_of_any_shape():
    coords = voxels(63, 3)
    index = hash_grid(coords)
    grouped = index.find(coords.reshape(7, 3, 3, 3))
    assert torch.equal(grouped, torch.arange(63).reshape(7, 3, 3))
    assert index.find(coords[0]).shape == ()
    assert index.find(torch.empty(0, 5, 3, dtype=torch.int32)).shape == (0, 5)


@dims
def test_keys_keep_the_order_of_coordinates(dims):
    coords = torch.unique(voxels(1000, dims, top=300), dim=0)
    keys = pack_keys(coords)
    assert keys.dtype == torch.int64
    assert (keys >= 0).all()
    assert (keys.diff() > 0).all()
    outside = coords.clone()
    outside[:, -1] = -1
    assert (pack_keys(outside) == -1).all()


def test_inputs_are_left_alone_and_the_output_repeats():
    coords = voxels(63, 3)
    before = coords.clone()
    index = hash_grid(coords)
    assert torch.equal(index.find(coords), index.find(coords))
    assert torch.equal(coords, before)
    assert torch.equal(index.keys, hash_grid(coords).keys)
    coords += 1  # what the caller does later does not reach the index
    assert torch.equal(index.find(before), torch.arange(63))


@pytest.mark.parametrize(
    "coords, message",
    [
        (torch.zeros(5, 2, dtype=torch.int32), r"coords: expected shape \[\*, 3\], got \[5, 2\]"),
        (torch.zeros(5, 5, dtype=torch.int32), "coords: expected shape"),
        (torch.zeros(3, dtype=torch.int32), "coords: expected shape"),
        (torch.zeros(5, 3), "coords: expected uint8 or int16 or int32 or int64, got float32"),
    ],
)
def test_malformed(coords, message):
    with pytest.raises(ValueError, match=message):
        hash_grid(coords)


def test_malformed_query_and_backend():
    with pytest.raises(TypeError, match=r"coords: expected a torch\.Tensor, got list"):
        hash_grid([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"query: expected shape \[\.\.\., 3\], got \[5, 4\]"):
        hash_grid(voxels(63, 3)).find(torch.zeros(5, 4, dtype=torch.int32))
    with pytest.raises(ValueError, match="'cuckoo'"):
        hash_grid(voxels(63, 3), backend="cuckoo")

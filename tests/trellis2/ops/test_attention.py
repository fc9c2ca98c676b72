"""Attention over packed tokens against softmax written out in float64, item by item."""

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.ops.attention import BACKENDS, attention, problem
from comfyui_trellis2.trellis2.ops.attention.libraries import LIBRARIES, WIDTHS

HEADS, WIDTH = 3, 20
LENGTHS = [
    ((1,), (1,)),
    ((63,), (5,)),
    ((7, 7), (11, 11)),
    ((1, 63, 8), (4, 4, 4)),
    ((9, 9), (1, 63)),
    ((1000,), (37,)),
    ((5, 0, 3), (4, 2, 6)),
    ((0, 0), (3, 3)),
    ((0,), (2,)),
    ((), ()),
]
ROUNDING = {torch.float64: 1e-6, torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}

CPU = torch.device("cpu")
HERE = [choice.name for choice in BACKENDS if choice.probe(CPU, torch.float32) is None]

backends = pytest.mark.parametrize("backend", HERE)
lengths = pytest.mark.parametrize("queries, keys", LENGTHS, ids=str)


def tokens(queries, keys, dtype=torch.float32, seed=0, width=WIDTH):
    generator = torch.Generator().manual_seed(seed)
    counts = (sum(queries), sum(keys), sum(keys))
    return [torch.randn(n, HEADS, width, generator=generator).to(dtype) for n in counts]


def written_out(query, key, value, queries, keys):
    q, k, v = (x.double().numpy() for x in (query, key, value))
    out, rows, columns = np.zeros(q.shape), 0, 0
    for n, m in zip(queries, keys, strict=True):
        for head in range(HEADS):
            scores = q[rows : rows + n, head] @ k[columns : columns + m, head].T / np.sqrt(WIDTH)
            powers = np.exp(scores - scores.max(1, initial=-np.inf, keepdims=True))
            out[rows : rows + n, head] = powers / powers.sum(1, keepdims=True) @ v[columns : columns + m, head]
        rows, columns = rows + n, columns + m
    return torch.from_numpy(out)


@backends
@lengths
def test_against_softmax_written_out(backend, queries, keys):
    given = tokens(queries, keys)
    out = attention(*given, queries, keys, backend=backend)
    assert out.dtype == torch.float32
    expected = written_out(*given, queries, keys)
    torch.testing.assert_close(out.double(), expected, atol=ROUNDING[torch.float32], rtol=0)


@backends
@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
@pytest.mark.parametrize("queries, keys", [((63,), (37,)), ((1, 62), (30, 7))], ids=["dense", "ragged"])
def test_rounding(backend, dtype, queries, keys):
    given = tokens(queries, keys, dtype)
    out = attention(*given, queries, keys, backend=backend)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), written_out(*given, queries, keys), atol=ROUNDING[dtype], rtol=0)


@backends
def test_equal_lengths_give_the_same_as_unequal_ones(backend):
    """The dense and the item by item path."""
    given = tokens((8, 8, 1), (5, 5, 5))
    mixed = attention(*given, (8, 8, 1), (5, 5, 5), backend=backend)[:16]
    dense = attention(given[0][:16], given[1][:10], given[2][:10], (8, 8), (5, 5), backend=backend)
    torch.testing.assert_close(mixed, dense, atol=1e-6, rtol=0)


@backends
@pytest.mark.parametrize("queries, keys", [((4, 4), (6, 6)), ((4, 5), (6, 7))], ids=["dense", "ragged"])
def test_items_do_not_see_each_other(backend, queries, keys):
    query, key, value = tokens(queries, keys)
    out = attention(query, key, value, queries, keys, backend=backend)
    key[6:], value[6:] = 100.0, torch.nan
    changed = attention(query, key, value, queries, keys, backend=backend)
    assert torch.equal(changed[:4], out[:4])
    assert changed[4:].isnan().all()


@backends
@pytest.mark.parametrize("queries, keys", [((3,), (0,)), ((1, 2), (0, 5))], ids=["dense", "ragged"])
def test_nothing_to_attend_to_gives_zeros(backend, queries, keys):
    out = attention(*tokens(queries, keys), queries, keys, backend=backend)
    assert torch.equal(out[: queries[0]], torch.zeros(queries[0], HEADS, WIDTH))


@backends
def test_large_scores_stay_finite(backend):
    query, key, value = tokens((5,), (7,))
    given = (query * 1e4, key * 1e4, value)
    out = attention(*given, (5,), (7,), backend=backend)
    torch.testing.assert_close(out.double(), written_out(*given, (5,), (7,)), atol=1e-5, rtol=0)


@backends
def test_inputs_are_left_alone_and_the_output_repeats(backend):
    given = tokens((4, 9), (6, 2))
    before = [x.clone() for x in given]
    first, second = (attention(*given, (4, 9), (6, 2), backend=backend) for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("part", [0, 1, 2])
def test_the_measure_sees_one_percent(part):
    given = tokens((63,), (37,))
    expected = written_out(*given, (63,), (37,))
    given[part] = given[part] * 1.01
    out = attention(*given, (63,), (37,))
    assert (out.double() - expected).abs().max() > 100 * ROUNDING[torch.float32]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"query": torch.zeros(5, HEADS)}, r"query: expected shape \[\*, \*, \*\]"),
        ({"query": torch.zeros(5, HEADS, WIDTH, dtype=torch.int32)}, "query: expected float16"),
        ({"key": torch.zeros(6, HEADS, WIDTH + 1)}, r"key: expected shape \[\*, 3, 20\], got \[6, 3, 21\]"),
        ({"key": torch.zeros(6, HEADS, WIDTH).half()}, "key: expected float32, got float16"),
        ({"value": torch.zeros(7, HEADS, WIDTH)}, r"value: expected shape \[6, 3, 20\], got \[7, 3, 20\]"),
        ({"query_lengths": (5, 0)}, r"lengths: .* got \[5, 0\] and \[6\]"),
        ({"query_lengths": (4,)}, r"lengths: .* summing to 5 and 6 tokens, got \[4\] and \[6\]"),
        ({"key_lengths": (7,)}, r"lengths: .* got \[5\] and \[7\]"),
        ({"backend": "flash"}, "backend: expected 'auto' or one of .*, got 'flash'"),
    ],
)
def test_malformed(changed, message):
    query, key, value = tokens((5,), (6,))
    given = {"query": query, "key": key, "value": value, "query_lengths": (5,), "key_lengths": (6,)} | changed
    with pytest.raises(ValueError, match=message):
        attention(**given)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("keys", "width"), [(63, 128), (1, 128), (2, 16), (63, 20)])
@pytest.mark.parametrize("backend", [choice.name for choice in BACKENDS])
def test_every_backend_of_the_gpu_is_as_good_as_plain_torch(backend, keys, width, dtype):
    if backend in LIBRARIES and (width not in WIDTHS or problem(backend, torch.device("cuda"), dtype)):
        pytest.skip(f"{backend}: not for heads of {width}, or not on this machine")
    if backend == "sage":
        pytest.skip("it quantises")
    generator = torch.Generator().manual_seed(3)
    given = [torch.randn(2 * n, 12, width, generator=generator).to("cuda", dtype) for n in (1000, keys, keys)]
    exact = attention(*(x.double() for x in given), (1000, 1000), (keys, keys), backend="reference").float()
    plain = attention(*given, (1000, 1000), (keys, keys), backend="sdpa").float()
    ours = attention(*given, (1000, 1000), (keys, keys), backend=backend).float()
    assert (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-6


def test_a_backend_that_does_not_work_here_says_why():
    with pytest.raises(ValueError, match=r"cudnn.*does not work on cpu"):
        attention(*tokens((3,), (2,)), (3,), (2,), backend="cudnn")


@pytest.mark.slow
@backends
@pytest.mark.parametrize("queries, keys", [((3, 3), (2, 2)), ((1, 4), (3, 2))], ids=["dense", "ragged"])
def test_gradients(backend, queries, keys):
    given = [tensor.requires_grad_() for tensor in tokens(queries, keys, torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: attention(*x, queries, keys, backend=backend), given)


@pytest.mark.gpu
@lengths
def test_items_of_any_length_learn_at_once_on_a_gpu(queries, keys):
    """Where gradients are wanted: in one launch, and as good as the reference on the same bfloat16 numbers."""
    found = []
    for backend in ("sdpa", "reference"):
        given = [x.to("cuda", torch.bfloat16).requires_grad_() for x in tokens(queries, keys, width=24)]
        out = attention(*given, queries, keys, backend=backend)
        weights = torch.linspace(-1, 1, out.numel(), device="cuda", dtype=out.dtype).view(out.shape)
        # Of a single key the output is the value: neither query nor key takes part.
        found.append((out, *torch.autograd.grad((out * weights).sum(), given, materialize_grads=True)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=ROUNDING[torch.bfloat16], rtol=ROUNDING[torch.bfloat16])

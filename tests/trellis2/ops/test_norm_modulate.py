"""Adaptive layer norm against the formula in float64."""

from dataclasses import replace

import pytest
import torch
from comfyui_trellis2.trellis2.ops.norm_modulate import (
    ResidualBranch,
    add_norm_affine,
    add_norm_modulate,
    layer_norm,
    norm_modulate,
    reference,
)
from comfyui_trellis2.trellis2.ops.quantized_linear import FORMATS

SIZES = (0, 1, 63, 1000)
CHANNELS = 24
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}

sizes = pytest.mark.parametrize("n", SIZES)


@pytest.fixture
def kernel():
    from comfyui_trellis2.trellis2.ops.norm_modulate import kernel

    return kernel


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prepared(n, items, dtype=torch.float32):
    """Tokens of `items` items that are not equally long, far from mean 0 and deviation 1."""
    x = draw(n, CHANNELS) * 3 + 5
    item = torch.randint(0, items, (n,), generator=torch.Generator().manual_seed(1)).sort().values
    scale, shift = draw(items, CHANNELS, seed=2), draw(items, CHANNELS, seed=3)
    return x.to(dtype), scale.to(dtype), shift.to(dtype), item


def expected(x, scale, shift, item, eps=1e-6):
    x, scale, shift = (part.double() for part in (x, scale, shift))
    mean = x.mean(1, keepdim=True)
    normed = (x - mean) / ((x - mean).square().mean(1, keepdim=True) + eps).sqrt()
    return normed * (1 + scale[item]) + shift[item]


@sizes
def test_several_items(n):
    given = prepared(n, 3)
    out = norm_modulate(*given)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected(*given), atol=ROUNDING[torch.float32], rtol=0)


@sizes
def test_one_item_needs_no_item_numbers(n):
    x, scale, shift, item = prepared(n, 1)
    out = norm_modulate(x, scale, shift, None)
    torch.testing.assert_close(out.double(), expected(x, scale, shift, item), atol=ROUNDING[torch.float32], rtol=0)
    torch.testing.assert_close(out, norm_modulate(x, scale, shift, item), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_rounding(dtype):
    given = prepared(63, 3, dtype)
    out = norm_modulate(*given)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected(*given), atol=ROUNDING[dtype], rtol=0)


def test_everything_but_the_result_is_in_fp32():
    """It is rounded once, at the end; and in halves the norm of 1000 +- 1 would have no digits left."""
    x, scale, shift, item = prepared(63, 3)
    out = norm_modulate(x.half(), scale, shift, item)
    torch.testing.assert_close(out.double(), expected(x.half(), scale, shift, item), atol=1e-5, rtol=2**-11)
    far = (1000 + x / 4).half()
    out = norm_modulate(far, scale, shift, item)
    torch.testing.assert_close(out.double(), expected(far, scale, shift, item), atol=1e-3, rtol=2**-11)


def test_eps():
    x, scale, shift, item = prepared(63, 3)
    out = norm_modulate(x / 1000, scale, shift, item, eps=1e-5)
    torch.testing.assert_close(out.double(), expected(x / 1000, scale, shift, item, 1e-5), atol=1e-4, rtol=0)
    assert (out - norm_modulate(x / 1000, scale, shift, item)).abs().max() > 0.1


def test_a_constant_token_is_its_shift():
    scale, shift = draw(1, CHANNELS), draw(1, CHANNELS, seed=1)
    torch.testing.assert_close(norm_modulate(torch.full((1, CHANNELS), 7.0), scale, shift, None), shift)


def test_inputs_are_left_alone_and_the_output_repeats():
    given = prepared(63, 3)
    before = [part.clone() for part in given]
    assert torch.equal(norm_modulate(*given), norm_modulate(*given))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


def test_the_measure_sees_one_percent():
    x, scale, shift, item = prepared(63, 3)
    wanted = expected(x, scale, shift, item)
    others = ((scale * 1.01, shift), (scale, shift * 1.01), (shift, scale), (scale * 0, shift * 0))
    for scale, shift in others:
        out = norm_modulate(x, scale, shift, item)
        assert (out.double() - wanted).abs().max() > 100 * ROUNDING[torch.float32]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x": torch.zeros(5)}, r"x: expected shape \[\*, \*\]"),
        ({"x": torch.zeros(5, CHANNELS).long()}, "x: expected float16"),
        ({"scale": torch.zeros(3, CHANNELS + 1)}, r"scale: expected shape \[\*, 24\], got \[3, 25\]"),
        ({"shift": torch.zeros(2, CHANNELS)}, r"shift: expected shape \[3, 24\], got \[2, 24\]"),
        ({"item": torch.zeros(4, dtype=torch.int64)}, r"item: expected shape \[5\], got \[4\]"),
        ({"item": torch.zeros(5, dtype=torch.int32)}, "item: expected int64, got int32"),
        ({"item": None}, r"scale: expected shape \[1, 24\], got \[3, 24\]"),
        ({"backend": "fast"}, "backend: expected 'auto' or one of .*, got 'fast'"),
    ],
)
def test_malformed(changed, message):
    x, scale, shift, item = prepared(5, 3)
    with pytest.raises(ValueError, match=message):
        norm_modulate(**({"x": x, "scale": scale, "shift": shift, "item": item} | changed))


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# On the CPU Triton's interpreter cuts to bfloat16 instead of rounding.
EPSILON = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
# Half the distance of two neighbouring numbers, in relation to them, and a little for fp32's own sums.
ROUNDOFF = {torch.float32: 2.0**-22, torch.float16: 2.0**-11 + 2.0**-20, torch.bfloat16: 2.0**-8 + 2.0**-20}
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


def branched(n, channels, dtype):
    """A residual stream, a branch and its gates, modulation and items, far from mean 0 and deviation 1."""
    x, branch = ((draw(n, channels, seed=s) * 3 + 5).to(DEVICE, dtype) for s in (0, 1))
    gate, constant, scale, shift = draw(3, 4 * channels, seed=2).to(DEVICE, dtype).chunk(4, dim=1)
    return x, ResidualBranch(branch, gate, constant), scale, shift, torch.arange(n, device=DEVICE) % 3


def sum_exactly(x, branch, item, change=lambda part: part):
    """x and its branch in float64, each part changed first."""
    total = x.double()
    if branch is None:
        return total
    gate, constant = (None if part is None else change(part.double())[item] for part in (branch.gate, branch.constant))
    values = change(branch.values.double())
    total = total + (values if gate is None else gate * values)
    return total if constant is None else total + constant


@pytest.mark.slow
@pytest.mark.parametrize(("n", "channels"), [(0, 24), (1, 24), (63, 100), (63, 1536), (1000, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_kernel(kernel, n, dtype, channels):
    x, branch, scale, shift, item = branched(n, channels, dtype)
    alone = ResidualBranch(branch.values)
    weight, bias = scale[0].float().contiguous(), shift[0].float().contiguous()
    cases = (
        ("modulate", (None, scale, shift, item)),
        ("modulate", (branch, scale, shift, item)),
        ("affine", (None, weight, bias, item)),
        ("affine", (alone, weight, bias, None)),
        ("affine", (branch, weight, bias, item)),
        ("modulate", (replace(branch, constant=None), scale, shift, item)),
    )
    # The interpreter takes a second for a thousand rows.
    for name, rest in cases[1:2] if n == 1000 else cases:
        total, out = getattr(kernel, name)(x, *rest, 1e-6, None)
        # Of the sum that the kernel wrote, which the next layer adds to.
        _, plain = getattr(reference, name)(total, None, *rest[1:], 1e-6, None)
        _, exact = getattr(reference, name)(total.double(), None, *rest[1:], 1e-6, None)
        assert total.dtype == out.dtype == dtype
        if n == 0:
            continue
        # It is rounded once; parts of this size may take most of each other away before.
        size = sum_exactly(x.abs(), rest[0], rest[-1], torch.abs)
        assert ((total - sum_exactly(x, rest[0], rest[-1])).abs() <= ROUNDOFF[dtype] * size).all()
        worst = (plain - exact).abs().max() + EPSILON[dtype]
        assert (out - exact).abs().max() <= 2 * worst


@pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))
def test_quantised_output_of_the_kernel(kernel, form):
    if DEVICE == "cpu" and not form.integer:
        pytest.skip("Triton's interpreter has no fp8")
    x, branch, scale, shift, item = branched(63, 100, torch.float32)
    for name, rest in (("modulate", (scale, shift, item)), ("affine", (scale[0].contiguous(), shift[0], item))):
        _, ours = getattr(kernel, name)(x, branch, *rest, 1e-6, form)
        _, plain = getattr(reference, name)(x, branch, *rest, 1e-6, form)
        _, wide = getattr(reference, name)(x, branch, *rest, 1e-6, None)
        assert ours.values.dtype == form.dtype
        torch.testing.assert_close(ours.scale, plain.scale, atol=0, rtol=1e-5)
        step = ours.scale[:, None] * (1 if form.integer else form.limit / 8)
        assert ((ours.dequantize() - wide).abs() <= 0.51 * step).all()
        assert (ours.values.float() != plain.values.float()).float().mean() < 0.01


def test_a_branch_is_added_before_the_norm():
    x, branch, scale, shift, item = branched(63, CHANNELS, torch.float32)
    total, out = add_norm_modulate(x, branch, scale, shift, item)
    summed = x + branch.gate[item] * branch.values + branch.constant[item]
    torch.testing.assert_close(total, summed)
    torch.testing.assert_close(out, norm_modulate(summed, scale, shift, item), atol=1e-5, rtol=0)
    _, out = add_norm_affine(x, ResidualBranch(branch.values), scale[0], shift[0], None)
    torch.testing.assert_close(out, layer_norm(x + branch.values, scale[0], shift[0]), atol=1e-5, rtol=0)
    assert add_norm_modulate(x, None, scale, shift, item)[0] is x


def test_malformed_branch():
    x, branch, scale, shift, item = branched(63, CHANNELS, torch.float32)
    for values, gate in (
        (branch.values[:5], branch.gate),
        (branch.values.half(), branch.gate),
        (branch.values, branch.gate[:, :5]),
    ):
        with pytest.raises(ValueError, match=r"branch: expected|gate: expected"):
            add_norm_modulate(x, ResidualBranch(values, gate), scale, shift, item)
    with pytest.raises(ValueError, match="constant: expected"):
        add_norm_modulate(x, ResidualBranch(branch.values, None, branch.constant[:, :5]), scale, shift, item)


def test_norm_with_weights_of_its_own():
    x, weight, bias = prepared(63, 1)[0], draw(CHANNELS, seed=5), draw(CHANNELS, seed=6)
    wanted = expected(x, weight[None] - 1, bias[None], torch.zeros(63, dtype=torch.int64))
    torch.testing.assert_close(layer_norm(x, weight, bias).double(), wanted, atol=ROUNDING[torch.float32], rtol=0)
    with pytest.raises(ValueError, match=r"weight: expected shape \[24\]"):
        layer_norm(x, weight[:5], bias)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "channels"), [(0, 24), (1, 8), (63, 100), (1000, 64)])
@pytest.mark.parametrize("silu", [False, True])
def test_norm_and_activation(kernel, n, channels, silu):
    x, weight, bias = (part.to(DEVICE) for part in (draw(n, channels) + 5, draw(channels, seed=1), draw(channels)))
    for affine in ((weight, bias), (None, None)):
        wanted = torch.nn.functional.layer_norm(x.double(), (channels,), eps=1e-5)
        wanted = wanted if affine[0] is None else wanted * weight.double() + bias.double()
        wanted = torch.nn.functional.silu(wanted) if silu else wanted
        for out in (
            layer_norm(x, *affine, silu=silu, eps=1e-5),
            kernel.affine(x, None, *affine, None, 1e-5, None, silu)[1],
            layer_norm(x, *affine, silu=silu, eps=1e-5, backend="reference"),
        ):
            torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=0)


def test_weights_of_the_norm_learn():
    weight, bias = (draw(CHANNELS, seed=s).to(DEVICE).requires_grad_() for s in (1, 2))
    layer_norm(draw(5, CHANNELS).to(DEVICE), weight, bias, silu=True).sum().backward()
    assert weight.grad.abs().sum() > 0
    assert bias.grad.abs().sum() > 0


def test_gradient_of_the_modulation():
    x, scale, shift, item = prepared(63, 3)
    leaves = [part.requires_grad_() for part in (x, scale, shift)]
    weights = draw(*x.shape, seed=9)
    ours = norm_modulate(*leaves, item)
    plain = torch.nn.functional.layer_norm(x, x.shape[1:], eps=1e-6) * (1 + scale[item]) + shift[item]
    found, known = (torch.autograd.grad((out * weights).sum(), leaves) for out in (ours, plain))
    for mine, autograd in zip(found, known, strict=True):
        torch.testing.assert_close(mine, autograd, atol=1e-5, rtol=1e-5)

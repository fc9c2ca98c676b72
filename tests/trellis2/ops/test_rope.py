"""RMS norm and rotation of queries and keys against the formulas in float64 and complex numbers."""

import pytest
import torch
from comfyui_trellis2.trellis2.ops.rope import qk_norm_rope, reference, rms_norm_rope, rotary_angles

SIZES = (0, 1, 63, 1000)
HEADS = 3
# Channels a head: 20 and 16 leave angles to pad, 24 none, 128 is the published one, 4 has no frequency at all.
WIDTHS = (4, 16, 20, 24, 128)
ROUNDING = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}

sizes = pytest.mark.parametrize("n", SIZES)
widths = pytest.mark.parametrize("width", WIDTHS)


@pytest.fixture
def kernel():
    from comfyui_trellis2.trellis2.ops.rope import kernel

    return kernel


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def positions(n, top=64):
    return torch.randint(0, top, (n, 3), generator=torch.Generator().manual_seed(5), dtype=torch.int32)


def expected_angles(points, width, base=(1.0, 10000.0)):
    per_axis = width // 2 // 3
    out = torch.zeros(len(points), width // 2, dtype=torch.float64)
    for axis in range(3):
        for j in range(per_axis):
            out[:, axis * per_axis + j] = points[:, axis].double() * base[0] * base[1] ** (-j / per_axis)
    return out


def expected(x, gamma, angles):
    """Norm by the root mean square, turn by a complex factor."""
    x = x.double()
    if gamma is not None:
        x = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12) * x.shape[-1] ** 0.5 * gamma.double()
    if angles is None:
        return x
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(pairs * turn[:, None]).flatten(-2)


def prepared(n, width, top=64):
    angles = rotary_angles(positions(n, top), width)
    return draw(n, HEADS, width), 1 + 0.1 * draw(HEADS, width, seed=1), (angles.cos(), angles.sin())


@sizes
@widths
def test_angles(n, width):
    points = positions(n)
    angles = rotary_angles(points, width)
    assert angles.dtype == torch.float32
    assert angles.shape == (n, width // 2)
    torch.testing.assert_close(angles.double(), expected_angles(points, width), atol=2e-5, rtol=1e-6)
    assert not angles[:, width // 2 // 3 * 3 :].any()


def test_angles_of_another_base():
    points = positions(63)
    angles = rotary_angles(points, 24, (2.0, 100.0))
    torch.testing.assert_close(angles.double(), expected_angles(points, 24, (2.0, 100.0)), atol=5e-5, rtol=1e-6)
    assert (angles - rotary_angles(points, 24)).abs().max() > 1


@sizes
@widths
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_against_the_formulas(n, width, normed, turned):
    x, gamma, rotation = prepared(n, width)
    out = rms_norm_rope(x, gamma if normed else None, rotation if turned else None)
    angles = rotary_angles(positions(n), width).double()
    wanted = expected(x, gamma if normed else None, angles if turned else None)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), wanted, atol=ROUNDING[torch.float32], rtol=0)


@pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)
def test_rounding(dtype):
    x, gamma, rotation = prepared(63, 128)
    x = x.to(dtype)
    out = rms_norm_rope(x, gamma, rotation)
    assert out.dtype == dtype
    wanted = expected(x, gamma, rotary_angles(positions(63), 128).double())
    torch.testing.assert_close(out.double(), wanted, atol=ROUNDING[dtype], rtol=0)


def test_scores_depend_on_the_difference_of_positions():
    query, key = draw(1, HEADS, 24), draw(1, HEADS, 24, seed=1)

    def score(at, to):
        turned = []
        for x, place in ((query, at), (key, to)):
            angles = rotary_angles(torch.tensor([place]), 24)
            turned.append(rms_norm_rope(x, None, (angles.cos(), angles.sin())))
        return (turned[0] * turned[1]).sum()

    here = score((1, 2, 3), (4, 1, 0))
    torch.testing.assert_close(score((11, 12, 3), (14, 11, 0)), here, atol=1e-4, rtol=0)
    for other in ((4, 1, 1), (4, 2, 0), (5, 1, 0)):
        assert (score((1, 2, 3), other) - here).abs() > 1e-3


def test_a_zero_vector_stays_zero():
    _, gamma, rotation = prepared(1, 24)
    assert torch.equal(rms_norm_rope(torch.zeros(1, HEADS, 24), gamma, rotation), torch.zeros(1, HEADS, 24))


def test_inputs_are_left_alone_and_the_output_repeats():
    x, gamma, (cos, sin) = prepared(63, 24)
    before = [part.clone() for part in (x, gamma, cos, sin)]
    assert torch.equal(rms_norm_rope(x, gamma, (cos, sin)), rms_norm_rope(x, gamma, (cos, sin)))
    assert all(torch.equal(a, b) for a, b in zip((x, gamma, cos, sin), before, strict=True))


def test_the_measure_sees_one_percent_and_other_pairings():
    x, gamma, (cos, sin) = prepared(63, 24)
    wanted = expected(x, gamma, rotary_angles(positions(63), 24).double())
    halves = x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
    others = ((x, gamma * 1.01, (cos, sin)), (x, gamma, (cos, -sin)), (halves, gamma, (cos, sin)), (x, gamma, None))
    for given in others:
        assert (rms_norm_rope(*given).double() - wanted).abs().max() > 100 * ROUNDING[torch.float32]


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"x": torch.zeros(5, 24)}, r"x: expected shape \[\*, \*, \*\]"),
        ({"x": torch.zeros(5, HEADS, 24, dtype=torch.int32)}, "x: expected float16"),
        ({"gamma": torch.zeros(24)}, r"gamma: expected shape \[3, 24\], got \[24\]"),
        ({"gamma": torch.zeros(HEADS, 24).half()}, "gamma: expected float32, got float16"),
        ({"rotation": (torch.zeros(4, 12), torch.zeros(5, 12))}, r"cos: expected shape \[5, 12\], got \[4, 12\]"),
        ({"rotation": (torch.zeros(5, 12), torch.zeros(5, 24))}, r"sin: expected shape \[5, 12\], got \[5, 24\]"),
        ({"rotation": (torch.zeros(5, 12).double(), torch.zeros(5, 12))}, "cos: expected float32, got float64"),
        ({"backend": "fast"}, "backend: expected 'auto' or one of .*, got 'fast'"),
    ],
)
def test_malformed(changed, message):
    x, gamma, rotation = prepared(5, 24)
    with pytest.raises(ValueError, match=message):
        rms_norm_rope(**({"x": x, "gamma": gamma, "rotation": rotation} | changed))


def test_malformed_positions():
    with pytest.raises(ValueError, match=r"positions: expected shape \[\*, 3\], got \[5, 4\]"):
        rotary_angles(torch.zeros(5, 4), 24)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# On the CPU Triton's interpreter cuts to bfloat16 instead of rounding.
HALVES = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "heads", "width"),
    [(0, 3, 20), (1, 3, 20), (63, 2, 24), (1000, 1, 24), pytest.param(63, 12, 128, marks=pytest.mark.gpu)],
)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_kernel(kernel, n, heads, width, dtype):
    generator = torch.Generator().manual_seed(n)
    packed = torch.randn(n, 3, heads, width, generator=generator).to(DEVICE, dtype)
    gamma = torch.randn(heads, width, generator=generator).to(DEVICE)
    angles = torch.rand(n, width // 2, generator=generator).to(DEVICE) * 6
    rotation = (angles.cos(), angles.sin())
    # The interpreter takes 4 s for a thousand rows: these once, fewer with each part alone.
    for norm, turn in ((gamma, rotation), (gamma, None), (None, rotation))[: 1 if n == 1000 else 3]:
        ours = kernel.norm_rotate(packed[:, 1], norm, turn, width**0.5)
        plain = reference.norm_rotate(packed[:, 1], norm, turn, width**0.5).double()
        exact = reference.norm_rotate(packed[:, 1].float(), norm, turn, width**0.5).double()
        assert ours.dtype == dtype
        assert n == 0 or (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_reference_rounds_once(dtype):
    x, gamma, rotation = prepared(63, 24)
    x = x.to(dtype)
    exact = reference.norm_rotate(x.float(), gamma, rotation, 24**0.5)
    assert torch.equal(reference.norm_rotate(x, gamma, rotation, 24**0.5), exact.to(dtype))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "heads", "width"), [(0, 3, 20), (63, 3, 20), (63, 12, 128)])
def test_queries_and_keys_together_are_each_alone(kernel, n, heads, width):
    qkv = draw(n, 3, heads, width)
    gammas = draw(heads, width, seed=1), draw(heads, width, seed=2)
    angles = draw(n, width // 2, seed=3)
    rotation = (angles.cos(), angles.sin())
    for norms, turn in ((gammas, rotation), (gammas, None), (None, rotation)):
        both = qk_norm_rope(qkv, norms, turn)
        fused = kernel.norm_rotate(
            qkv[:, :2].flatten(1, 2).to(DEVICE),
            norms and tuple(gamma.to(DEVICE) for gamma in norms),
            turn and tuple(part.to(DEVICE) for part in turn),
            width**0.5,
        ).cpu()
        for part, (ours, gamma) in enumerate(zip(both, norms or (None, None), strict=True)):
            single = rms_norm_rope(qkv[:, part], gamma, turn)
            assert torch.equal(ours, single)
            torch.testing.assert_close(fused[:, part * heads : (part + 1) * heads], single, atol=1e-5, rtol=1e-5)


def test_malformed_packed_projection():
    with pytest.raises(ValueError, match=r"qkv: expected shape \[\*, 3, \*, \*\], got \[5, 2, 3, 24\]"):
        qk_norm_rope(torch.zeros(5, 2, HEADS, 24), None, None)
    with pytest.raises(ValueError, match=r"gamma: expected shape \[3, 24\], got \[24\]"):
        qk_norm_rope(torch.zeros(5, 3, HEADS, 24), (torch.zeros(HEADS, 24), torch.zeros(24)), None)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 63])
@pytest.mark.parametrize("width", [4, 20, 48])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_gradient(kernel, n, width, normed, turned):
    from comfyui_trellis2.trellis2.ops.rope.gradient import NormRotate

    x, gamma, (cos, sin) = prepared(n, width)
    x, gamma = x.to(DEVICE).requires_grad_(), gamma.to(DEVICE).requires_grad_() if normed else None
    rotation = (cos.to(DEVICE), sin.to(DEVICE)) if turned else None
    weights = draw(n, HEADS, width, seed=7).to(DEVICE)
    ours = NormRotate.apply(x, gamma, *(rotation or (None, None)), width**0.5)
    plain = reference.norm_rotate(x, gamma, rotation, width**0.5)
    leaves = [leaf for leaf in (x, gamma) if leaf is not None]
    found, known = (torch.autograd.grad((out * weights).sum(), leaves) for out in (ours, plain))
    for mine, autograd in zip(found, known, strict=True):
        torch.testing.assert_close(mine, autograd, atol=2e-5, rtol=2e-5)

"""Eight-bit linear layers against the formula in float64, and the backends against one another."""

import pytest
import torch
from comfyui_trellis2.trellis2.ops.quantized_linear import (
    FORMATS,
    Quantized,
    quantize_rows,
    quantized_linear,
    reference,
)
from comfyui_trellis2.trellis2.ops.quantized_linear.torch_products import int_mm_probe, scaled_mm_probe

SIZES = (0, 1, 63, 1000)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Half a step of the format at the largest value of a row, relative to it.
STEP = {"int8": 0.5 / 127, "fp8": 0.5 / 14}

sizes = pytest.mark.parametrize("n", SIZES)
formats = pytest.mark.parametrize("form", FORMATS.values(), ids=list(FORMATS))


@pytest.fixture
def kernel():
    from comfyui_trellis2.trellis2.ops.quantized_linear import kernel

    return kernel


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def supported(form):
    if DEVICE.type == "cpu" and not form.integer:
        pytest.skip("Triton's interpreter has no fp8")


@sizes
@formats
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_quantised_rows(n, form, activation):
    x = draw(n, 48) * torch.logspace(-3, 3, max(n, 1), device=DEVICE)[:n, None]
    wanted = x.double() if activation is None else torch.nn.functional.gelu(x.double(), approximate="tanh")
    out = quantize_rows(x, form, activation)
    assert out.values.dtype == form.dtype
    assert out.scale.shape == (n,)
    top = wanted.abs().amax(1, keepdim=True) if n else wanted
    error = (out.dequantize() - wanted).abs()
    assert (error <= 1.01 * STEP[form.name] * top + 1e-9).all()
    assert n == 0 or (error / top).max() > 0.2 * STEP[form.name]


@pytest.mark.slow
@sizes
@formats
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_kernel_quantises_as_the_reference(kernel, n, form, activation):
    supported(form)
    x = draw(n, 100)[:, 10:90]
    ours, plain = kernel.quantize_rows(x, form, activation), reference.quantize_rows(x, form, activation)
    torch.testing.assert_close(ours.scale, plain.scale, atol=0, rtol=1e-5)
    assert n == 0 or (ours.values.float() != plain.values.float()).float().mean() < 0.01
    torch.testing.assert_close(ours.dequantize(), plain.dequantize(), atol=0.05, rtol=0.14)


@formats
def test_zeros_stay_zeros(form):
    out = quantize_rows(torch.zeros(3, 16, device=DEVICE), form)
    assert torch.equal(out.dequantize(), torch.zeros(3, 16, device=DEVICE))


def pair(n, form, k=96, outputs=48):
    x, weight = quantize_rows(draw(n, k), form), quantize_rows(draw(outputs, k, seed=1), form)
    bias = draw(outputs, seed=2)
    return x, weight, bias, x.dequantize().double() @ weight.dequantize().double().T + bias.double()


@sizes
@formats
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product(n, form, dtype):
    x, weight, bias, wanted = pair(n, form)
    out = quantized_linear(x, weight, bias.to(dtype), dtype)
    assert out.dtype == dtype
    # Hopper adds fp8 products in about 14 bits, and torch's own product writes bfloat16.
    tolerance = 0.2 if dtype == torch.bfloat16 or not form.integer else 1e-3
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=0)
    torch.testing.assert_close(
        quantized_linear(x, weight, None, torch.float32).double(), wanted - bias.double(), atol=0.2, rtol=0
    )


@pytest.mark.parametrize(("n", "k", "outputs"), [(1, 16, 16), (63, 40, 100), (200, 300, 130)])
@formats
def test_kernel_product(kernel, n, k, outputs, form):
    supported(form)
    x, weight, bias, wanted = pair(n, form, k, outputs)
    tolerance = 1e-3 if form.integer else 0.05
    torch.testing.assert_close(kernel.linear(x, weight, bias, torch.float32).double(), wanted, atol=tolerance, rtol=0)
    assert torch.equal(kernel.linear(x, weight, bias, torch.float32), kernel.linear(x, weight, bias, torch.float32))


@sizes
@formats
def test_torch_products(n, form):
    choice, probe = ("int_mm", int_mm_probe) if form.integer else ("scaled_mm", scaled_mm_probe)
    reason = probe(DEVICE, form.dtype)
    x, weight, bias, wanted = pair(n, form)
    if reason is not None:
        with pytest.raises(ValueError, match=f"{choice}' does not work on {DEVICE.type}"):
            quantized_linear(x, weight, bias, torch.float32, backend=choice)
        return
    out = quantized_linear(x, weight, bias.bfloat16(), torch.bfloat16, backend=choice)
    torch.testing.assert_close(out.double(), wanted, atol=0.2, rtol=0)


def test_the_measure_sees_one_percent():
    x, weight, bias, wanted = pair(63, FORMATS["int8"])
    louder = Quantized(x.values, x.scale * 1.01)
    assert (quantized_linear(louder, weight, bias, torch.float32) - wanted).abs().max() > 0.1


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"weight": quantize_rows(torch.ones(3, 9), FORMATS["int8"])},
            r"weight: expected shape \[\*, 8\], got \[3, 9\]",
        ),
        ({"weight": quantize_rows(torch.ones(3, 8), FORMATS["fp8"])}, "weight: expected int8"),
        ({"bias": torch.ones(4)}, r"bias: expected shape \[3\], got \[4\]"),
        ({"bias": torch.ones(3).half()}, "bias: expected float32, got float16"),
        ({"backend": "fast"}, "backend: expected 'auto' or one of"),
    ],
)
def test_malformed(change, message):
    x, weight = (quantize_rows(torch.ones(rows, 8), FORMATS["int8"]) for rows in (5, 3))
    given = {"x": x, "weight": weight, "bias": torch.ones(3), "dtype": torch.float32} | change
    with pytest.raises(ValueError, match=message):
        quantized_linear(**given)


def test_malformed_rows():
    with pytest.raises(ValueError, match=r"x: expected shape \[\*, \*\], got \[5\]"):
        quantize_rows(torch.ones(5), FORMATS["int8"])
    with pytest.raises(ValueError, match=r"activation: expected one of .*, got 'silu'"):
        quantize_rows(torch.ones(5, 8), FORMATS["int8"], "silu")


@pytest.mark.parametrize(
    ("capability", "hip", "tiles", "descriptor"),
    [
        ((8, 9), None, "ELSEWHERE", False),
        ((9, 0), None, "HOPPER", True),
        ((10, 0), None, "HOPPER", True),
        ((12, 0), None, "ELSEWHERE", True),
        ((9, 4), "6.2", "ELSEWHERE", False),
        ((11, 0), "6.2", "ELSEWHERE", False),
    ],
)
def test_only_nvidia_cards_have_a_tensor_memory_accelerator(kernel, monkeypatch, capability, hip, tiles, descriptor):
    """An AMD card's capability 9.4 is none of Hopper's."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    card = torch.device("cuda", 0)
    assert kernel.choose_config(card) is getattr(kernel, tiles)
    assert kernel.uses_descriptor(card) == (descriptor and kernel.TensorDescriptor is not None)

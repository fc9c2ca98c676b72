"""The MLP of a flow block: where torch's product with GELU does its first half."""

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import randomize
from comfyui_trellis2.trellis2.models.layers import FeedForward
from torch.nn import functional as F


class OnCard(torch.Tensor):
    """A tensor that passes for one on a GPU."""

    is_cuda = True


@pytest.fixture
def fused(monkeypatch) -> list:
    """Calls of the fused product, which on the CPU computes the other GELU; as torch's, it has no gradient."""
    calls = []

    def fake(bias: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *, use_gelu: bool) -> torch.Tensor:
        calls.append(use_gelu)
        return F.gelu(torch.addmm(bias, x, weight), approximate="tanh").detach()

    monkeypatch.setattr(torch, "_addmm_activation", fake)
    return calls


def mlp(dtype: torch.dtype = torch.float64) -> FeedForward:
    layer = FeedForward(8, 16)
    randomize(layer, torch.Generator().manual_seed(0))
    return layer.to(dtype)


def sample(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_without_gradients_it_is_fused(fused):
    layer = mlp()
    with torch.no_grad():
        torch.testing.assert_close(layer(sample().as_subclass(OnCard)).as_subclass(torch.Tensor), layer(sample()))
    assert len(fused) == 1
    layer.requires_grad_(False)(sample().as_subclass(OnCard))
    assert len(fused) == 2


@pytest.mark.parametrize("learned", ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight"])
def test_weights_learn_from_inputs_that_need_no_gradient(fused, learned):
    grads = []
    for x in (sample().as_subclass(OnCard), sample()):
        layer = mlp().requires_grad_(False)
        parameter = layer.get_parameter(learned).requires_grad_(True)
        layer(x).float().sum().backward()
        grads.append(parameter.grad.as_subclass(torch.Tensor))
    assert len(fused) == (learned == "mlp.2.weight")
    torch.testing.assert_close(*grads)


def test_under_autocast_weights_of_another_dtype_are_cast(fused):
    layer = mlp(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x = sample(torch.bfloat16)
        torch.testing.assert_close(layer(x.as_subclass(OnCard)).as_subclass(torch.Tensor), layer(x))
    assert fused == []


def test_a_torch_without_the_fused_product(monkeypatch):
    monkeypatch.delattr(torch, "_addmm_activation")
    layer = mlp()
    with torch.no_grad():
        got = layer(sample().as_subclass(OnCard)).as_subclass(torch.Tensor)
        assert torch.equal(got, layer(sample()))

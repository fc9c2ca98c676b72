"""Recordings of a network's steps: which are made, and that they compute what the network does."""

import pytest
import torch
from pack.trellis2.capture import MAX_TOKENS, graph_pool, recorded

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="only a CUDA device records")


def forward(x, t):
    return x * t + 1


def test_what_is_recorded():
    for mode, tokens, device in (("auto", 1, CPU), ("eager", 1, CUDA), ("auto", MAX_TOKENS + 1, CUDA)):
        assert recorded(forward, mode, tokens, device) is forward
    assert recorded(forward, "auto", MAX_TOKENS, CUDA) is not forward
    assert recorded(forward, "graph", MAX_TOKENS + 1, CUDA) is not forward
    assert graph_pool(CPU) is None


def test_what_cannot_be_recorded_is_refused():
    with pytest.raises(ValueError, match="launch: expected 'auto', 'graph' or 'eager', got 'jit'"):
        recorded(forward, "jit", 1, CPU)
    with pytest.raises(ValueError, match="'graph' needs a CUDA device, got cpu"):
        recorded(forward, "graph", 1, CPU)


@gpu
def test_recordings_that_share_memory_do_not_disturb_each_other():
    weights = [torch.randn(64, 64, device=CUDA) for _ in range(2)]
    plain = [lambda x, t, weight=weight: (x @ weight * t).softmax(-1) @ weight for weight in weights]
    pool = graph_pool(CUDA)
    steps = [recorded(one, "graph", 1, CUDA, pool) for one in plain]
    with torch.no_grad():
        for k in range(5):
            x, t = torch.randn(32, 64, device=CUDA), torch.full((32, 1), k / 5, device=CUDA)
            kept = x.clone()
            got = [step(x, t) for step in steps]
            for ours, one in zip(got, plain, strict=True):
                torch.testing.assert_close(ours, one(x, t), atol=1e-5, rtol=0)
            assert torch.equal(x, kept)

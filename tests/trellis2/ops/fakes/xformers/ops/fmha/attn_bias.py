"""The constructor of xformers 0.0.35's mask of a batch of different lengths."""

from dataclasses import dataclass

import torch


@dataclass
class BlockDiagonalMask:
    query_ends: torch.Tensor
    key_ends: torch.Tensor

    @classmethod
    def from_seqlens(cls, q_seqlen, kv_seqlen=None, *, device=None):
        assert isinstance(q_seqlen, list) and (kv_seqlen is None or len(kv_seqlen) == len(q_seqlen))
        lengths = (q_seqlen, q_seqlen if kv_seqlen is None else kv_seqlen)
        return cls(*(torch.tensor([0, *n]).cumsum(0).to(device, torch.int32) for n in lengths))

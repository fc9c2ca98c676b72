"""What is kept of a call in inference mode, as ComfyUI makes it, serves a training step later in the same process."""

import pytest
import torch
from comfyui_trellis2.o_voxel.core.device import normal_tensors
from comfyui_trellis2.o_voxel.mesh.remesh.contour_tables import contour_tables
from comfyui_trellis2.trellis2.checkpoint.int8_file import hadamard_matrix
from comfyui_trellis2.trellis2.ops.attention.sdpa import item_ends
from comfyui_trellis2.trellis2.ops.rope import rms_norm_rope, rotary_angles
from comfyui_trellis2.trellis2.ops.submanifold_conv.reference import _sibling_tables
from comfyui_trellis2.trellis2.sparse import CoordSet, SparseTensor
from comfyui_trellis2.trellis2.sparse.layers import SubmanifoldConv3d, spatial_to_channel

CPU = torch.device("cpu")


def voxels():
    grid = torch.cartesian_prod(*[torch.arange(4)] * 3)
    return CoordSet.from_items([grid, grid[::3]])


def test_a_training_step_on_the_voxels_of_an_inference():
    coords, layer = voxels(), SubmanifoldConv3d(16, 16)
    feats = torch.rand(len(coords), 16)

    def forward() -> torch.Tensor:
        x = layer(SparseTensor(feats, coords))
        packed = spatial_to_channel(x, coords.coarsen()).feats
        rotation = coords.derive(
            "rope", lambda: tuple(f(rotary_angles(coords.voxels, 16)) for f in (torch.cos, torch.sin))
        )
        turned = rms_norm_rope(x.feats[:, None], None, rotation)
        return packed.square().mean() + (turned * x.feats[coords.item][:, None]).mean()

    with torch.inference_mode():
        expected = forward().item()
    loss = forward()
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert float(layer.weight.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("table", "arguments"),
    [
        (contour_tables, (CPU,)),
        (item_ends, ((1, 2), CPU)),
        (_sibling_tables, ()),
        (hadamard_matrix, (16, CPU, torch.float32)),
    ],
    ids=["contour_tables", "ends", "sibling_tables", "hadamard"],
)
def test_cached_tables_are_normal_tensors(table, arguments):
    table.cache_clear()
    with torch.inference_mode():
        found = table(*arguments)
    found = found if isinstance(found, tuple) else (found,)
    assert not any(tensor.is_inference() for tensor in found)
    assert table(*arguments) is not None and not any(tensor.requires_grad for tensor in found)


def test_the_modes_of_the_caller_come_back():
    weight = torch.ones(2, requires_grad=True)
    double = normal_tensors(lambda: weight * 2)
    with torch.inference_mode():
        made = double()
        assert not made.is_inference() and not made.requires_grad
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
        with pytest.raises(ValueError, match="no"):
            normal_tensors(lambda: (_ for _ in ()).throw(ValueError("no")))()
        assert torch.is_inference_mode_enabled()
    assert double().requires_grad and torch.is_grad_enabled()

"""Networks built on the meta device: what they are made of, and what making them may not cost."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comfyui_trellis2.trellis2.models import build_model
from comfyui_trellis2.trellis2.models.layers import without_memory
from torch import nn

ROOT = Path(__file__).parents[3]
FLOW = {"resolution": 8, "in_channels": 4, "out_channels": 4, "model_channels": 96, "cond_channels": 32}
FLOW |= {"num_blocks": 2, "num_heads": 2, "mlp_ratio": 4, "pe_mode": "rope", "share_mod": True}
FLOW |= {"qk_rms_norm": True, "qk_rms_norm_cross": True, "dtype": "bfloat16"}
CHILD = """
import importlib.util, json, sys
root, path = sys.argv[1:]
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["pack"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
from pack.trellis2.checkpoint.tiny import ENCODER
from pack.trellis2.models import build_model
from pack.trellis2.models.dino import DinoConfig, DinoVisionTransformer
from pack.trellis2.models.layers import without_memory
for role, description in json.load(open(path))["models"].items():
    build_model(description, role)
with without_memory():
    DinoVisionTransformer(DinoConfig.from_transformers(ENCODER))
print(*sorted({"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)))
"""


def test_building_the_published_networks_imports_no_compiler():
    """torch's own initialisers, and its arithmetic on the meta device, do: three seconds of a process's first load."""
    path = ROOT / "trellis2" / "checkpoint" / "published.json"
    command = [sys.executable, "-c", CHILD, str(ROOT), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("change", [{}, {"pe_mode": "ape"}, {"share_mod": False}])
@pytest.mark.parametrize("name", ["SparseStructureFlowModel", "SLatFlowModel"])
def test_a_network_without_memory_has_the_tensors_of_one_with_it(name, change):
    description = {"name": name, "args": FLOW | change}
    blank, real = build_model(description, "flow"), build_model(description, "flow", device="cpu")
    expected = {key: (tensor.shape, tensor.dtype) for key, tensor in real.state_dict().items()}
    assert {key: (tensor.shape, tensor.dtype) for key, tensor in blank.state_dict().items()} == expected
    assert {tensor.device.type for tensor in blank.state_dict().values()} == {"meta"}
    assert {tensor.device.type for tensor in real.state_dict().values()} == {"cpu"}


def test_no_initialiser_runs_without_memory():
    with without_memory():
        layers = nn.ModuleList([nn.Linear(3, 2), nn.Conv3d(2, 3, 3), nn.LayerNorm(4), nn.GroupNorm(1, 4)])
        assert torch.empty(2).device.type == "meta"
    assert {parameter.device.type for parameter in layers.parameters()} == {"meta"}
    given = torch.full((3,), 7.0)
    with without_memory():
        assert nn.init.normal_(given) is given and nn.init.uniform_(tensor=given) is given
    assert given.tolist() == [7.0] * 3 and nn.init.normal_(given).tolist() != [7.0] * 3

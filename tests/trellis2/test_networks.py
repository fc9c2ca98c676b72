"""The typed accessors of a checkpoint's networks: which role each lends, and what else it refuses."""

from types import SimpleNamespace

import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.config import ConfigError
from comfyui_trellis2.trellis2.checkpoint.layouts import Checkpoint
from comfyui_trellis2.trellis2.models.dino import DinoVisionTransformer
from comfyui_trellis2.trellis2.models.latent_flow import LatentFlow
from comfyui_trellis2.trellis2.models.shape_vae import ShapeDecoder
from comfyui_trellis2.trellis2.models.structure_flow import StructureFlow
from comfyui_trellis2.trellis2.models.structure_vae import StructureDecoder
from comfyui_trellis2.trellis2.models.texture_vae import TextureDecoder
from comfyui_trellis2.trellis2.networks import Networks
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded
from torch import nn

ACCESSORS = {
    "image_encoder": (lambda networks: networks.image_encoder(), DinoVisionTransformer),
    "sparse_structure_flow_model": (lambda networks: networks.structure_flow(8, 9), StructureFlow),
    "sparse_structure_decoder": (lambda networks: networks.structure_decoder(), StructureDecoder),
    "shape_slat_flow_model_512": (lambda networks: networks.shape_flow(512, 8, 9), LatentFlow),
    "shape_slat_flow_model_1024": (lambda networks: networks.shape_flow(1024, 8, 9), LatentFlow),
    "tex_slat_flow_model_512": (lambda networks: networks.texture_flow(512, 8, 9), LatentFlow),
    "tex_slat_flow_model_1024": (lambda networks: networks.texture_flow(1024, 8, 9), LatentFlow),
    "shape_slat_decoder": (lambda networks: networks.shape_decoder(8), ShapeDecoder),
    "tex_slat_decoder": (lambda networks: networks.texture_decoder(8), TextureDecoder),
}
roles = pytest.mark.parametrize("role", list(ACCESSORS))


@roles
def test_an_accessor_lends_the_network_of_its_role(tiny, role):
    networks = Networks(Checkpoint.open(str(tiny)), KeepLoaded("cpu"), dtype="float32")
    lend, kind = ACCESSORS[role]
    assert networks.loaded == {}
    with lend(networks) as network:
        assert type(network) is kind
    assert list(networks.loaded) == [role]
    with networks.model(role) as again, lend(networks) as once_more:
        assert again is once_more is network
    networks.unload()
    assert networks.loaded == {}


@roles
def test_a_network_of_another_type_is_refused(role):
    checkpoint = SimpleNamespace(config=None, load_model=lambda role, **_: nn.Linear(1, 1))
    lend, kind = ACCESSORS[role]
    with (
        pytest.raises(ConfigError, match=rf"{role}: expected a {kind.__name__}, got a Linear"),
        lend(Networks(checkpoint, KeepLoaded("cpu"))),
    ):
        pass


def test_every_role_of_a_published_checkpoint_has_an_accessor(tiny):
    assert set(Checkpoint.open(str(tiny)).config.models) == set(ACCESSORS) - {"image_encoder"}


def test_networks_compute_on_the_residencys_device():
    checkpoint = SimpleNamespace(config=None)
    assert Networks(checkpoint, KeepLoaded("cpu")).device == torch.device("cpu")

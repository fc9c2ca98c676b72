"""A tiny random checkpoint in the published layout, and a pipeline over it, for all tests of this folder."""

from pathlib import Path

import pytest
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny
from comfyui_trellis2.trellis2.pipeline import Pipeline
from comfyui_trellis2.trellis2.runtime.residency import KeepLoaded


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's folder, read-only by agreement: a test that spoils files copies it first."""
    return make_tiny(tmp_path_factory.mktemp("models") / "owner" / "tiny")


@pytest.fixture(scope="session")
def pipeline(tiny: Path) -> Pipeline:
    """All networks stay loaded. A test that alters a network opens its own."""
    return Pipeline.load(str(tiny), KeepLoaded("cpu"), dtype="float32")

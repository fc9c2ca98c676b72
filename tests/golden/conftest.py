"""What the golden tests share: arrays as tensors, networks with golden weights, and the comparison."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_trellis2.trellis2.checkpoint.weights import load_weights, read_tensors
from comfyui_trellis2.trellis2.models import Backends, build_model
from torch import Tensor, nn

Golden = Callable[[str], Path]
Edit = Callable[[dict[str, Tensor]], object]


@pytest.fixture(scope="session")
def arrays(golden: Golden) -> Callable[[str], dict[str, Tensor]]:
    """arrays("c1_x.data.npz") holds that file's numbers as tensors; its texts are left out."""

    def read(name: str) -> dict[str, Tensor]:
        with np.load(golden(name)) as file:
            found = {key: file[key] for key in file.files}
        return {key: torch.from_numpy(value) for key, value in found.items() if value.dtype.kind != "U"}

    return read


@pytest.fixture(scope="session")
def network(golden: Golden) -> Callable[..., nn.Module]:
    """network("c1_x") is that golden model. edit(tensors) changes its weights first, args its configuration."""

    def load(
        name: str,
        *,
        edit: Edit | None = None,
        dtype: str | None = None,
        backends: Backends | None = None,
        **args: object,
    ) -> nn.Module:
        description = json.loads(golden(f"{name}.json").read_text())
        description["args"] |= args
        tensors = read_tensors(golden(f"{name}.safetensors"))
        if edit is not None:
            edit(tensors)
        return load_weights(build_model(description, name, dtype=dtype, backends=backends), tensors, name)

    return load


@pytest.fixture(scope="session")
def scaled() -> Callable[..., Edit]:
    """scaled("pattern", by=1.01) is an edit of the first weight whose key matches the regular expression: which blocks
    a network has follows from its golden configuration."""

    def edit(pattern: str, by: float = 1.01) -> Edit:
        def multiply(tensors: dict[str, Tensor]) -> None:
            key = next(key for key in tensors if re.fullmatch(pattern, key))
            tensors[key] = tensors[key] * by

        return multiply

    return edit


@pytest.fixture(scope="session")
def close() -> Callable[[Tensor, Tensor, float], None]:
    """close(actual, expected, atol): within atol everywhere, where all zeros would not be."""

    def check(actual: Tensor, expected: Tensor, atol: float) -> None:
        torch.testing.assert_close(actual, expected, atol=atol, rtol=0)
        assert expected.abs().max() > 100 * atol

    return check


@pytest.fixture(scope="session")
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Root mean square of the difference over that of the expected: 1 for zeros, 0.01 for one percent."""

    def error(actual: Tensor, expected: Tensor) -> float:
        return float((actual.double() - expected.double()).norm() / expected.double().norm())

    return error


@pytest.fixture(scope="session")
def watch() -> Callable[..., dict[str, object]]:
    """watch(name=module) is a dict that fills with those modules' outputs as they run."""

    def register(**modules: nn.Module) -> dict[str, object]:
        seen: dict[str, object] = {}
        for name, module in modules.items():
            module.register_forward_hook(lambda module, args, output, name=name: seen.update({name: output}))
        return seen

    return register

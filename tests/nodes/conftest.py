"""A small graph runner: executes an API-form workflow against node classes as ComfyUI does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from comfyui_trellis2.nodes import NODE_CLASS_MAPPINGS, host
from comfyui_trellis2.trellis2.checkpoint.tiny import make_tiny
from comfyui_trellis2.trellis2.sampling import stages

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
SAVED = Path(__file__).parent / "saved"
FEW = 96  # voxels of a structure


class PreviewImage:
    """Stands in for core's node of that name."""

    FUNCTION, RETURN_TYPES, OUTPUT_NODE = "show", (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",)}}

    def show(self, images: Any) -> dict[str, Any]:
        return {"ui": {"images": [tuple(images.shape)]}}


class Preview3D:
    """Stands in for core's node of that name."""

    FUNCTION, RETURN_TYPES, OUTPUT_NODE = "show", (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model_file": ("STRING", {})}}

    def show(self, model_file: str) -> dict[str, Any]:
        return {"ui": {"result": [model_file]}}


class GraphError(Exception):
    """The server would have rejected the prompt."""


class GraphRunner:
    """Validates and executes prompts, and keeps outputs by what produced them, as ComfyUI's cache does."""

    def __init__(self, extra: Mapping[str, type] | None = None) -> None:
        self.classes = {**NODE_CLASS_MAPPINGS, "PreviewImage": PreviewImage, "Preview3D": Preview3D, **(extra or {})}
        self.cache: dict[str, list[list[Any]]] = {}
        self.executed: list[str] = []
        self.ui: dict[str, Any] = {}

    def run(self, prompt: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
        """Execute a prompt; returns each node's outputs, a list of values each. `executed` says which nodes ran."""
        self.executed, results, signatures = [], {}, {}
        for node_id in self._order(prompt):
            node = prompt[node_id]
            self.validate(node_id, prompt)
            made_by = json.dumps(
                [node["class_type"], {k: self._trace(v, signatures) for k, v in sorted(node["inputs"].items())}]
            )
            signatures[node_id] = made_by
            if made_by not in self.cache:
                self.cache[made_by] = self._execute(node_id, node, results)
                self.executed.append(node_id)
            results[node_id] = self.cache[made_by]
        return results

    def _execute(self, node_id: str, node: Mapping[str, Any], results: Mapping[str, Any]) -> list[list[Any]]:
        kind = self.classes[node["class_type"]]
        inputs = {k: results[v[0]][v[1]] if isinstance(v, list) else [v] for k, v in node["inputs"].items()}
        calls = max((len(values) for values in inputs.values()), default=1)
        returned = []
        for i in range(calls):
            arguments = {k: values[min(i, len(values) - 1)] for k, values in inputs.items()}
            result = getattr(kind(), kind.FUNCTION)(**arguments)
            if isinstance(result, dict):
                self.ui.setdefault(node_id, []).append(result.get("ui"))
                result = result.get("result", ())
            assert len(result) == len(kind.RETURN_TYPES)
            returned.append(result)
        is_list = getattr(kind, "OUTPUT_IS_LIST", (False,) * len(kind.RETURN_TYPES))
        return [
            [value for result in returned for value in (result[k] if is_list[k] else [result[k]])]
            for k in range(len(kind.RETURN_TYPES))
        ]

    def _order(self, prompt: Mapping[str, Any]) -> list[str]:
        ordered: list[str] = []

        def visit(node_id: str) -> None:
            if node_id in ordered:
                return
            for value in prompt[node_id]["inputs"].values():
                if isinstance(value, list):
                    visit(value[0])
            ordered.append(node_id)

        for node_id in prompt:
            visit(node_id)
        return ordered

    def validate(self, node_id: str, prompt: Mapping[str, Any]) -> None:
        """Raises GraphError unless the node's inputs are what its class declares."""
        node = prompt[node_id]
        if node["class_type"] not in self.classes:
            raise GraphError(f"node {node_id}: there is no {node['class_type']}")
        declared = self.classes[node["class_type"]].INPUT_TYPES()
        required, optional = declared.get("required", {}), declared.get("optional", {})
        missing = [name for name in required if name not in node["inputs"]]
        unknown = [name for name in node["inputs"] if name not in {**required, **optional}]
        if missing or unknown:
            raise GraphError(f"node {node_id}: missing inputs {missing}, unknown inputs {unknown}")
        for name, value in node["inputs"].items():
            kind, *rest = {**required, **optional}[name]
            if isinstance(value, list):
                source = self.classes[prompt[value[0]]["class_type"]]
                if source.RETURN_TYPES[value[1]] not in kind.split(","):  # as ComfyUI: "A,B" takes either
                    raise GraphError(f"node {node_id}.{name}: expected {kind}, got {source.RETURN_TYPES[value[1]]}")
            elif isinstance(kind, list):
                checks = getattr(self.classes[node["class_type"]], "VALIDATE_INPUTS", None)
                # ComfyUI leaves the choices of an input to VALIDATE_INPUTS if that names it.
                if value not in kind and (checks is None or name not in signature(checks).parameters):
                    raise GraphError(f"node {node_id}.{name}: {value!r} is not among {kind}")
            elif kind in ("INT", "FLOAT"):
                limits = rest[0]
                if not limits["min"] <= value <= limits["max"]:
                    raise GraphError(f"node {node_id}.{name}: {value} is outside {limits['min']} to {limits['max']}")
            elif kind not in ("STRING", "BOOLEAN"):
                raise GraphError(f"node {node_id}.{name}: {kind} must be connected")

    def _trace(self, value: Any, signatures: Mapping[str, str]) -> Any:
        return [signatures[value[0]], value[1]] if isinstance(value, list) else value


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder that holds a tiny checkpoint as models/trellis2/tiny."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny(folder / "trellis2" / "tiny")
    return folder


@pytest.fixture
def comfy(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-ins of the host, with that models folder and an empty output folder, which is returned."""
    monkeypatch.setattr(host.folders, "models_folder", lambda: models)
    monkeypatch.setattr(host.folders, "comfy_folder", lambda place: tmp_path / place)
    # A random network occupies 1,272 voxels, whose surface at 1024 takes half a minute to decode on a CPU.
    found = stages.occupied_voxels
    monkeypatch.setattr(stages, "occupied_voxels", lambda *given: [voxels[:FEW] for voxels in found(*given)])
    return tmp_path / "output"


@pytest.fixture
def runner() -> GraphRunner:
    return GraphRunner()


@pytest.fixture
def workflow() -> Any:
    """workflow(name, **{"node.input": value}): the API form of a shipped workflow on the tiny checkpoint, two steps.
    folder: where it is; SAVED has those that were shipped first."""

    def load(name: str, folder: Path = WORKFLOWS, **changes: Any) -> dict[str, Any]:
        file = folder / "api" / f"{name}.json" if folder == WORKFLOWS else folder / f"{name}.api.json"
        prompt = json.loads(file.read_text(encoding="utf-8"))
        for node in prompt.values():
            if node["class_type"] == "T2LoadModel":
                node["inputs"]["model"] = "tiny"
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] = 2
        for place, value in changes.items():
            node_id, name = place.removeprefix("n").split("_", 1)
            prompt[node_id]["inputs"][name] = value
        return prompt

    return load

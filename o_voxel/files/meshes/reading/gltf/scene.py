"""Nodes of a glTF file: world transforms, instances, skins in their default pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .....names import stored_name
from . import accessors
from .primitives import Part
from .source import Source

INSTANCING = "EXT_mesh_gpu_instancing"


@dataclass(frozen=True, eq=False)
class Placement:
    """A mesh in the world.  matrices: its world transforms [4, 4] float64, one for each instance; skin: index or None.

    weights: of the morph targets.  name: its node's, else the mesh's, else "".
    """

    mesh: int
    matrices: tuple[np.ndarray, ...]
    skin: int | None
    weights: tuple[float, ...]
    name: str


def placements(source: Source) -> tuple[list[Placement], list[np.ndarray]]:
    """Returns the meshes of the default scene, in node order, and the world transform [4, 4] of every node.

    Hidden nodes (KHR_node_visibility) are left out. A file without nodes has its meshes where they are.
    Raises ValueError if the nodes are no trees.
    """
    nodes = [source.item("nodes", i) for i in range(len(source.json.get("nodes", [])))]
    if not nodes:
        meshes = range(len(source.json.get("meshes", [])))
        return [Placement(i, (np.eye(4),), None, _weights(source, i, {}), _name(source, i, {})) for i in meshes], []
    world = _world(nodes)
    found = []
    for i in _shown(source, nodes):
        node = nodes[i]
        if "mesh" in node:
            matrices = tuple(world[i] @ matrix for matrix in _instances(source, node))
            weights, name = _weights(source, node["mesh"], node), _name(source, node["mesh"], node)
            found.append(Placement(node["mesh"], matrices, node.get("skin"), weights, name))
    return found, world


def posed(source: Source, part: Part, skin: int, world: list[np.ndarray]) -> Part:
    """Returns `part` bent by the default pose of its joints, in the world's frame: its node's own transform is ignored.

    Source: glTF 2.0 specification, 3.7.3. Raises ValueError for a malformed skin.
    """
    stored = source.item("skins", skin)
    joints = stored["joints"]
    if not joints or part.joints is None or part.weights is None:
        raise ValueError(f"skin {skin}: expected joints, and JOINTS_0 and WEIGHTS_0 of the mesh")
    for joint in joints:
        source.item("nodes", joint)
    matrices = np.stack([world[joint] for joint in joints])
    if "inverseBindMatrices" in stored:
        # Stored by columns.
        inverse = accessors.floats(source, stored["inverseBindMatrices"]).astype(np.float64)
        if inverse.shape != (len(joints), 16):
            raise ValueError(f"skin {skin}: expected {len(joints)} inverse bind matrices, got {list(inverse.shape)}")
        matrices = matrices @ inverse.reshape(-1, 4, 4).transpose(0, 2, 1)
    weights = part.weights.astype(np.float64).clip(0)
    used = np.where(weights > 0, part.joints, 0)
    if used.min() < 0 or used.max() >= len(joints):
        raise ValueError(f"JOINTS_0: expected 0 to {len(joints) - 1}, got {used.min()} to {used.max()}")
    total = weights.sum(1, keepdims=True)
    # A vertex without weights follows the first joint.
    weights = np.where(total > 0, weights / np.where(total > 0, total, 1), np.eye(1, weights.shape[1]))
    blend = sum(weights[:, k, None, None] * matrices[used[:, k], :3] for k in range(weights.shape[1]))
    positions = np.einsum("nij,nj->ni", blend[:, :, :3], part.positions.astype(np.float64)) + blend[:, :, 3]
    normals = part.normals
    if normals is not None:
        columns = blend[:, :, :3].transpose(0, 2, 1)
        cofactors = np.stack([np.cross(columns[:, (i + 1) % 3], columns[:, (i + 2) % 3]) for i in range(3)], 2)
        normals = np.einsum("nij,nj->ni", cofactors, normals.astype(np.float64)).astype(np.float32)
    return replace(part, positions=positions.astype(np.float32), normals=normals)


def _world(nodes: list[dict[str, Any]]) -> list[np.ndarray]:
    """The world transforms [4, 4] of all nodes. No recursion: files nest tens of thousands of nodes."""
    parent: dict[int, int] = {}
    for i, node in enumerate(nodes):
        for child in node.get("children", []):
            if not isinstance(child, int) or not 0 <= child < len(nodes):
                raise ValueError(f"nodes: expected children from 0 to {len(nodes) - 1}, got {child!r:.40}")
            if child in parent:
                raise ValueError(f"nodes: expected trees, but node {child} is a child of {parent[child]} and of {i}")
            parent[child] = i
    world: list[np.ndarray | None] = [None] * len(nodes)
    for start in range(len(nodes)):
        above, i = [], start
        while world[i] is None:
            above.append(i)
            if i not in parent:
                break
            i = parent[i]
            if i == start:
                raise ValueError(f"nodes: expected trees, but node {i} is a child of itself")
        for i in reversed(above):
            local = _local(nodes[i], f"node {i}")
            world[i] = world[parent[i]] @ local if i in parent else local
    return [matrix for matrix in world if matrix is not None]


def _shown(source: Source, nodes: list[dict[str, Any]]) -> Iterator[int]:
    """Yields the nodes of the default scene, or of all trees if there is no scene, parents first."""
    if source.json.get("scenes"):
        roots = source.item("scenes", source.json.get("scene", 0)).get("nodes", [])
    else:
        children = {child for node in nodes for child in node.get("children", [])}
        roots = [i for i in range(len(nodes)) if i not in children]
    waiting, seen = list(reversed(roots)), set()
    while waiting:
        i = waiting.pop()
        node = source.item("nodes", i)
        # A scene may list a node twice, or one that stands below another of its nodes.
        if i in seen:
            continue
        seen.add(i)
        if not node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True):
            source.warn("hidden nodes are left out")
            continue
        yield i
        waiting.extend(reversed(node.get("children", [])))


def _local(node: dict[str, Any], name: str) -> np.ndarray:
    """A node's own transform [4, 4] float64."""
    if "matrix" in node:
        return _numbers(node["matrix"], 16, name).reshape(4, 4).T
    translation = _numbers(node.get("translation", (0, 0, 0)), 3, name)
    rotation = _numbers(node.get("rotation", (0, 0, 0, 1)), 4, name)
    return _composed(translation, rotation, _numbers(node.get("scale", (1, 1, 1)), 3, name))


def _numbers(values: Any, count: int, name: str) -> np.ndarray:
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name}: expected {count} finite numbers in its transform, got {values!r:.80}")
    return numbers


def _composed(translation: np.ndarray, rotation: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The transform [4, 4] of a translation [3], a quaternion [4] (x, y, z, w) and a scale [3]."""
    length = np.linalg.norm(rotation)
    x, y, z, w = rotation / length if length > 0 else (0.0, 0.0, 0.0, 1.0)
    turned = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turned * scale, translation
    return matrix


def _instances(source: Source, node: dict[str, Any]) -> list[np.ndarray]:
    """The transforms [4, 4] of a node's instances in its own frame; the identity without any."""
    attributes = node.get("extensions", {}).get(INSTANCING, {}).get("attributes", {})
    rows = {name: attributes[name] for name in ("TRANSLATION", "ROTATION", "SCALE") if name in attributes}
    if not rows:
        return [np.eye(4)]
    values = {name: accessors.floats(source, row).astype(np.float64) for name, row in rows.items()}
    count = len(next(iter(values.values())))
    defaults = {"TRANSLATION": (0, 0, 0), "ROTATION": (0, 0, 0, 1), "SCALE": (1, 1, 1)}
    table = [values.get(name, np.tile(np.float64(default), (count, 1))) for name, default in defaults.items()]
    if any(len(column) != count for column in table):
        raise ValueError(f"{INSTANCING}: expected as many translations as rotations and scales")
    source.claim(count * 128, INSTANCING)
    return [_composed(*row) for row in zip(*table, strict=True)]


def _weights(source: Source, mesh: int, node: dict[str, Any]) -> tuple[float, ...]:
    """The default weights of a mesh's morph targets: the node's, else the mesh's."""
    return tuple(float(weight) for weight in node.get("weights", source.item("meshes", mesh).get("weights", [])))


def _name(source: Source, mesh: int, node: dict[str, Any]) -> str:
    """What a node with a mesh is called."""
    return stored_name(node.get("name")) or stored_name(source.item("meshes", mesh).get("name"))

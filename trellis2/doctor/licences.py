"""The optional parts that a machine has, and under which licence they came."""

from __future__ import annotations

import importlib.metadata

# Distribution -> (its licence, what it is for here). None is needed but by what it names.
OPTIONAL = {
    "triton": ("MIT", "GPU kernels"),
    "triton-windows": ("MIT", "GPU kernels"),
    "numba": ("BSD-2-Clause", "CPU kernels"),
    "fast-simplification": ("MIT", "simplifying by name"),
    "DracoPy": ("Apache-2.0", "Draco geometry"),
    "trimesh": ("MIT", "meshes of other packs"),
    "zstandard": ("BSD-3-Clause", "zstd in .vxz"),
    "coacd": ("MIT", "several collision hulls"),
    "rembg": ("MIT; its models have their own", "backgrounds"),
    "ray": ("Apache-2.0", "batches over hosts"),
}
# Checkpoint -> its licence; a folder of the user's own is unknown.
WEIGHTS = {
    "mini": "MIT",
    "microsoft/TRELLIS.2-4B": "MIT; its image encoder DINOv3: Meta's DINOv3 License",
    "Comfy-Org/TRELLIS.2": "MIT; its image encoder DINOv3: Meta's DINOv3 License",
    "TencentARC/Pixal3D": "MIT; its image encoder DINOv3: Meta's DINOv3 License",
    "Comfy-Org/Pixal3D": "MIT; its image encoder DINOv3: Meta's DINOv3 License",
}


def installed() -> list[tuple[str, str, str]]:
    """Returns (name and version, licence, use) of each optional part that is installed."""
    rows = []
    for name, (licence, use) in OPTIONAL.items():
        try:
            rows.append((f"{name} {importlib.metadata.version(name)}", licence, use))
        except importlib.metadata.PackageNotFoundError:
            continue
    return rows


def of_weights(name: str) -> str:
    """Returns the licence of a checkpoint by its name, "" where it is not known."""
    return WEIGHTS.get(name.partition(":")[0], "")

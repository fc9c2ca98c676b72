"""Writes a mesh that looks scanned, for `trellis2 reconstruct`: python tests/bench/make_scan.py OUT.glb [RESOLUTION]"""

import sys

import bench  # noqa: F401 makes the pack importable
from comfyui_trellis2.o_voxel.files.meshes.write import save_mesh
from surfaces import scan

if __name__ == "__main__":
    saved = save_mesh(sys.argv[1], scan(*map(int, sys.argv[2:3])))
    print(f"{saved.path}: {saved.size:,} bytes")

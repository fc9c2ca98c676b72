"""Readers of mesh files: glTF by our own, the others through trimesh; see `read.py` in the folder above."""

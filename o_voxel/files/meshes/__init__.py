"""Mesh files: GLB, OBJ, PLY and STL, in and out, and their images."""

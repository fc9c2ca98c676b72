"""Meshes made ready for use: one algorithm a file, each a function from a mesh to a new one."""

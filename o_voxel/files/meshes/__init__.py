"""Mesh file formats: reads and writes GLB, OBJ, PLY and STL with their textures."""

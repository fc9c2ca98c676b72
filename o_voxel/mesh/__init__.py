"""Mesh processing: connectivity, repair, normals, simplification, remeshing and UV unwrapping."""

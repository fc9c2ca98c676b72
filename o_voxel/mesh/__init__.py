"""Mesh processing: connectivity, repair, normals, simplification, remeshing and UV unwrapping. Inputs are not modified."""

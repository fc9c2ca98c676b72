"""Mesh connectivity: half-edges, manifold splitting, orientation, connected components, vertex welding."""

"""Remeshing by distance fields: sparse narrow band, manifold dual contouring, shrinkwrap."""

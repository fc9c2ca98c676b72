"""New surfaces through signed distances: narrow band, manifold dual contouring, shrinkwrap."""

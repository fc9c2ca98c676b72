"""Foundations of the library: argument checks, backends, grids, colours, vectors, exact sums and atomic file writes."""

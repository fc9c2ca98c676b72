"""Ground for the whole library: argument checks, backends, grids, colours, vectors, exact sums, atomic files."""

"""Which faces, edges and vertices belong together."""

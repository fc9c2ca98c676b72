"""Where in the unit box u^T A u - 2 b . u is least: the last step of mesh -> dual grid, for each voxel."""

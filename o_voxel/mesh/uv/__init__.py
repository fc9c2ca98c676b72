"""UV atlases: segmentation, parameterisation, chart merging, packing, and a checker."""

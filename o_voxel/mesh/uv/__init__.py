"""UV atlases: segmentation, parameterisation, chart merging, unwrapping and quality metrics."""

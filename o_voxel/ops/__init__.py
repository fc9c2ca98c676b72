"""The computations worth a kernel: one folder each, with a plain torch reference beside any faster twin."""

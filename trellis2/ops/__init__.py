"""The networks' computations: one folder each, a plain torch reference beside any faster twin."""

"""Ops with accelerated kernels: one folder each, with a plain torch reference beside the Triton or numba kernel."""

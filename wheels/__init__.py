"""Optional accelerators: which builds exist for which machine. Standard library only."""

"""Selects builds of optional accelerators for a machine. Standard library only."""

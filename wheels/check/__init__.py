"""Says whether a wheel would load on this machine, from its bytes alone. Standard library only; imports no torch."""

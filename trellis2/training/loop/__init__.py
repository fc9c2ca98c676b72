"""The training loop: optimiser, averaged weights, state files, processes."""

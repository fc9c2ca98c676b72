"""Training of the networks: objects in, a checkpoint in the published layout out. See README.md."""

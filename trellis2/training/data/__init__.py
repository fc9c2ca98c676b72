"""Training data: datasets, latents, and the stream of batches."""

"""Published checkpoints: configurations, files, key layouts, weights."""

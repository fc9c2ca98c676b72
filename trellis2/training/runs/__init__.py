"""Runs: a recipe's stages in order or concurrently, exported as a checkpoint."""

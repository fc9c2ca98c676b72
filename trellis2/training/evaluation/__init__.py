"""Evaluation of a checkpoint: metrics, galleries, and the model card."""

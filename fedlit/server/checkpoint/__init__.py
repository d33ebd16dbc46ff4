"""Checkpoints: one atomic folder a round."""

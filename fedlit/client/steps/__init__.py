"""Optimizer steps of a local fit: terms, learning rates, counts, displacement, state."""

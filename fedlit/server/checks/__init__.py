"""Checks of a federation: its parts against each other and its checkpoints."""

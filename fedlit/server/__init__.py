"""The server: rounds, selection, evaluation, checkpoints."""

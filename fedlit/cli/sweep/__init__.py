"""Sweeps: their plan, their jobs, their GPUs."""

"""Clients with equal schedules: their progress, optimizer, terms and learning rates."""

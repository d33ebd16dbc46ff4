"""Algorithms that give each client its own model."""

"""The rows of scripts/fault_matrix.py, and what they need."""

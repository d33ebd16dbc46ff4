"""The rows of scripts/fault_matrix.py, and their tools."""

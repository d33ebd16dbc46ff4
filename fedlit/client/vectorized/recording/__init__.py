"""Recorded operations of stacked steps, and the programs that run them again."""

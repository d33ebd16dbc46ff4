"""Measurements of finished runs, and statistics over their seeds."""

"""Differential privacy: mechanisms of the channel, and their accountants."""

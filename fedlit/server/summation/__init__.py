"""Sums of a round that need several exchanges."""

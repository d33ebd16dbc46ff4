"""Secure sums of a round, which need several exchanges."""

"""A trial of the first step, before round 1."""

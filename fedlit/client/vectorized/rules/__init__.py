"""Client rules of one job, whose calls of `fit` are answered together."""

"""Data sets of the project, and readers of other data sets."""

"""Data sets that come with the project or that it reads."""

"""Values and functions that every other package uses."""

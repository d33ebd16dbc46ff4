"""The commands of fedlit."""

"""Actors of Ray. Ray is imported in this package alone."""

"""Skellam noise on integers: rotation, rounding, noise, and their ring."""

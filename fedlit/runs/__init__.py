"""The files of a run, its records, and the keys that identify it."""

"""What runs left on the disk: read, grouped, measured, compared, shown. Nothing that a run's files name is imported."""

"""Files, records and metric names of a run, and its identifying keys."""

"""Reports on finished runs. They import nothing that a run names."""

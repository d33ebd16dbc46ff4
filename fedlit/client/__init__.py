"""Local training of one client by Lightning, and the worker that executes jobs."""

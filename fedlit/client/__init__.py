"""Local training of one client by Lightning; the worker of jobs."""

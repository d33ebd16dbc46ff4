"""Worker processes: their jobs, their messages, and their replacement."""

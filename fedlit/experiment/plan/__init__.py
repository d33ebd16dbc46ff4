"""The plan of a run: its sizes, bytes and seconds."""

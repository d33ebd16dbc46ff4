"""The messages of a client: its update and its replies."""

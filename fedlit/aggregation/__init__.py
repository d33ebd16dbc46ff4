"""The way from a client's update to the server's aggregate."""

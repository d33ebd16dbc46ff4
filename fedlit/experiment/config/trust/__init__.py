"""Rules for a configuration from elsewhere: its names, its values, its folder."""

"""From a configuration to a federation."""

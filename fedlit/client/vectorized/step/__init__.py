"""One step of several clients: gradients, logged values, metrics, contrasts."""

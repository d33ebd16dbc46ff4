"""TensorBoard: events in its own format, and the tabs that read them."""

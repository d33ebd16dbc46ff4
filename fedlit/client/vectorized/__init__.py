"""Local training of several clients as one stacked model."""

"""Command-line overrides: their texts, their names, and suggestions for wrong ones."""

"""The report as one HTML file with its own style and script."""

"""The executor that trains clients in groups, each as one stacked model."""

"""Reports as tables, text and figures."""

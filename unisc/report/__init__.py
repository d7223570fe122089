"""Reports: one page, one look for figures, one way to write numbers. Knows nothing of what is reported."""

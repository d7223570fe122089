"""Fuzzed logs: mutations of tables and files, and an independent judge of what must come of them."""

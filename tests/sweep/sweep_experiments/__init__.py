"""Experiments that cost nothing, for tests of the sweep. Importable where this folder's parent is on PYTHONPATH."""

"""Launchers start identical workers and hold no state of their own: one module an engine."""

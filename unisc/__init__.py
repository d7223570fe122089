"""Scaling-law research and ranking-model experimentation for e-commerce search."""

__version__ = "0.1.0"

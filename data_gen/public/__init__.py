"""Adapters for real public logs, each reading a folder the user supplies; nothing is downloaded or shipped."""

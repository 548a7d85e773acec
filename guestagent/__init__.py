"""Owns goal state, certificates, extensions, status."""

__version__ = "0.1.0"

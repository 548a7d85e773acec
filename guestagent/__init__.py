"""Owns goal state, certificates, extensions, status."""

__version__ = "0.2.0"

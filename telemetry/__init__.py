"""Owns the durable record of what happened."""

__version__ = "0.1.0"

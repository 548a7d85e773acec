"""Owns the durable record of what happened."""

__version__ = "0.2.0"

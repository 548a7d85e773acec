"""Owns the agent itself: heartbeat to the host, and the truth about the others."""

__version__ = "0.2.0"

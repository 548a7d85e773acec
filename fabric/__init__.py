"""The far side: a local Azure host. Imports nothing of ours, so that it cannot share our mistakes."""

__version__ = "0.2.0"

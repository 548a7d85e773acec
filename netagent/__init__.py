"""Owns the kernel's networking: today observes it, and finds the host."""

__version__ = "0.2.0"

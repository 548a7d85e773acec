"""The operator's hand: one command for the VM's side."""

__version__ = "0.2.0"

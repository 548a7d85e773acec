"""`agentctl drill`: what an update may do to a VM, done to a group of its own beforehand.

Each drill has a root, a local host, a supervisord and the four to itself (`stage.py`), versions made for it
(`variants.py`), and one form of report (`report.py`).
"""

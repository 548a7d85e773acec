"""Component packages: made, signed, checked, unpacked; and the record of which version is to run.

Imports nothing of ours: the operator's command uses it, later the updater, and neither may drag a component along.
`launch.py` beside this folder reads and writes the same record and checks the same trees with
nothing but the standard library.
"""

"""The lab: a network in namespaces, with the host at Azure's addresses and VMs beside it."""

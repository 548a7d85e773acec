"""`agentctl drill blackout`: the sources of versions away or lying."""

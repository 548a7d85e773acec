"""`agentctl drill skew`: combinations of releases."""

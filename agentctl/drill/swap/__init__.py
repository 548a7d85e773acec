"""`agentctl drill swap`: good builds back and forth under load."""

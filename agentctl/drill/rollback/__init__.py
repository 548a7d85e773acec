"""`agentctl drill rollback`: bad builds, and what becomes of each."""

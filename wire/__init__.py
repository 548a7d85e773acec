"""How we speak to the host: documents (pure, bytes to values) and one HTTP client. Imports nothing of ours."""

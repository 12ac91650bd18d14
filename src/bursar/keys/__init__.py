"""API keys: made, shown once, kept as a hash, known to every process, revoked within a second."""

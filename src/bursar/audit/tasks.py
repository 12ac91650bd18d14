"""What the audit trail does by itself."""

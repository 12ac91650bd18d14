"""Tables of the audit trail."""

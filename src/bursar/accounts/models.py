"""Tables of customers and staff."""

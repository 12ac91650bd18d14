"""Money from outside: each fact of a provider has one name and one effect."""

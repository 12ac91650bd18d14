"""Metered billing: what usage costs, as it happens or at the end of the month."""

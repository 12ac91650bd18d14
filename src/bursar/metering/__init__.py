"""Usage: each call counted once and exactly, and limited by rate and quota."""

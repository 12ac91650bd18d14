"""Demo data: a small company that looks alive."""

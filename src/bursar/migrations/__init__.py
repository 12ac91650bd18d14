"""One linear, dated chain: each revision's id is later than the one before it."""

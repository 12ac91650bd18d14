"""Points earned on what customers spend, tiers, and what points are redeemed for."""

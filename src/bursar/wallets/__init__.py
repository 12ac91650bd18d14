"""Prepaid wallets on a double-entry ledger: money moves here and nowhere else."""

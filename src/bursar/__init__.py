"""Bursar: the back office for a product that takes money."""

__version__ = "0.1.0"

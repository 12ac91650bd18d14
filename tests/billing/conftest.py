"""Invoices are also paid by card: with the Stripe of the tests."""

from tests.payments.conftest import shop, stripe_process

__all__ = ["shop", "stripe_process"]

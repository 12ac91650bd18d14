"""Which providers this installation has by its settings; a library is loaded when it is used."""

from collections.abc import Mapping
from functools import lru_cache

from bursar.core.settings import Settings
from bursar.payments.models import Method
from bursar.payments.providers import Provider, ProviderMissing

MANUAL = "manual"
BY_HAND = frozenset((Method.CASH, Method.CHECK, Method.BANK_TRANSFER))


class Providers:
    """Those that are set up; cash, checks and transfers need none."""

    def __init__(self, known: Mapping[str, Provider]) -> None:
        self.known = dict(known)

    def of(self, name: str) -> Provider:
        if name not in self.known:
            raise ProviderMissing(f"{name.capitalize()} is not set up here.")
        return self.known[name]

    def name_for(self, method: Method) -> str:
        """Who carries out a payment: the provider itself, or the demo in its place."""
        if method in BY_HAND:
            return MANUAL
        name = method if method in self.known or "demo" not in self.known else "demo"
        return self.of(name).name

    async def close(self) -> None:
        for provider in self.known.values():
            await provider.close()


@lru_cache(maxsize=8)
def providers(settings: Settings) -> Providers:
    """One for each process and its settings."""
    known: dict[str, Provider] = {}
    if settings.stripe_secret_key:
        from bursar.payments.providers.stripe import Stripe

        known["stripe"] = Stripe.of(settings)
    if settings.paypal_client_secret:
        from bursar.payments.providers.paypal import PayPal

        known["paypal"] = PayPal.of(settings)
    if settings.demo_payments:
        from bursar.payments.providers.demo import Demo

        known["demo"] = Demo.of(settings)
    return Providers(known)

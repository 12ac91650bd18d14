"""What an API key may be allowed to do here: every scope with its sentence, in this one place.

    READ = customer_or_key(KeyScope.USAGE_READ)

A customer gives a key of theirs those of CUSTOMERS; those of SERVICES are for credentials that
staff make for other services of the business. Scopes of the business's own API are no concern of
this code: staff name them in the setting `api_scopes`, and keys/verify asks for them.
"""

from enum import StrEnum

from bursar.core.errors import BursarError


class MissingScope(BursarError, status=403, code="auth.missing_scope"):
    """The API key is good, but was not given the scope that this route asks for."""


class KeyScope(StrEnum):
    """What a route asks of a key."""

    BALANCE_READ = "balance:read"
    WALLET_READ = "wallet:read"
    USAGE_READ = "usage:read"
    USAGE_WRITE = "usage:write"
    KEYS_VERIFY = "keys:verify"
    USAGE_INGEST = "usage:ingest"
    WALLETS_CHARGE = "wallets:charge"


CUSTOMERS: dict[KeyScope, str] = {
    KeyScope.BALANCE_READ: "Read the balance of its owner.",
    KeyScope.WALLET_READ: "Read the wallets, holds and transactions of its owner.",
    KeyScope.USAGE_READ: "Read the usage and quota of its owner.",
    KeyScope.USAGE_WRITE: "Report usage of its owner.",
}
SERVICES: dict[KeyScope, str] = {
    KeyScope.KEYS_VERIFY: "Ask whether a customer's key is good, and count the call.",
    KeyScope.USAGE_INGEST: "Report usage of any customer.",
    KeyScope.WALLETS_CHARGE: "Charge and hold in any customer's wallet.",
}

"""What is said to the ledger and what it answers: legs, requests, outcomes, and every refusal.

    from bursar.wallets import ledger

    ledger.Request("payments", "stripe:pi_1:captured",
                   (ledger.transfer("clearing", ledger.user(user_id), 5_000_000, kind="funding"),))

A request happens whole or not at all, and once for its scope and key, for ever: the same request
again gets the first outcome (`replayed`), another one under the same key is refused. Amounts are
whole numbers of the asset's smallest unit. wallets/posting.sql does it.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from bursar.auth.actor import Origin
from bursar.core import money
from bursar.core.errors import BursarError
from bursar.core.idempotency import KeyReused

USD = "USD"
POINTS = "POINTS"

MOST_REQUESTS = 1000  # of one call of post()
MOST_LEGS = 100  # of one request

Leg = dict[str, Any]


class Kind(StrEnum):
    """What a transfer is; a domain that moves money in a way of its own adds its word here."""

    FUNDING = "funding"
    CHARGE = "charge"
    TRANSFER = "transfer"  # from one customer to another
    ADJUSTMENT = "adjustment"
    REVERSAL = "reversal"
    EXCHANGE = "exchange"
    EARN = "earn"
    TAKE_BACK = "take_back"
    REDEEM = "redeem"
    EXPIRE = "expire"
    PAYMENT = "payment"  # for something else than the wallet, past it
    REFUND = "refund"
    DISPUTE = "dispute"
    FEE = "fee"


def user(user_id: UUID | str) -> str:
    """A customer's wallet, in the asset of the leg that names it."""
    return f"user:{user_id}"


def transfer(
    debit: str,
    credit: str,
    amount: int,
    asset: str = USD,
    *,
    kind: str,
    category: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    effective_at: datetime | None = None,
    at_most_today: int | None = None,
) -> Leg:
    """From debit to credit. `at_most_today` bounds what the debited account sends as
    `kind="transfer"` in one day, in UTC."""
    return leg(
        verb="transfer",
        debit=debit,
        credit=credit,
        amount=amount,
        asset=asset,
        kind=kind,
        category=category,
        metadata=metadata,
        effective_at=effective_at.isoformat() if effective_at else None,
        at_most_today=at_most_today,
    )


def hold(
    account: str,
    amount: int,
    asset: str = USD,
    *,
    kind: str,
    seconds: int,
    category: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Leg:
    """Sets an amount aside: what is held cannot be spent otherwise, until it expires."""
    return leg(
        verb="hold",
        debit=account,
        amount=amount,
        asset=asset,
        kind=kind,
        category=category,
        metadata=metadata,
        seconds=seconds,
    )


def capture(
    hold_id: UUID | str,
    amount: int | None = None,
    *,
    credit: str = "revenue",
    final: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Leg:
    """Takes a part of a hold, or all that is left; `final` gives the rest back at once."""
    return leg(
        verb="capture",
        hold=str(hold_id),
        amount=amount,
        credit=credit,
        final=final or None,
        metadata=metadata,
    )


def void(hold_id: UUID | str) -> Leg:
    """Gives back what is left of a hold."""
    return leg(verb="void", hold=str(hold_id))


def expire(hold_id: UUID | str) -> Leg:
    """The same for a hold whose time has passed."""
    return leg(verb="expire", hold=str(hold_id))


def reverse(
    transfer_id: UUID | str,
    amount: int | None = None,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> Leg:
    """Moves a transfer back, in part or all that is left of it; never more than it moved."""
    return leg(verb="reverse", transfer=str(transfer_id), amount=amount, metadata=metadata)


def leg(**given: Any) -> Leg:
    return {name: value for name, value in given.items() if value is not None}


class Request(NamedTuple):
    """One thing to be done. `origin` says for whom: what a person does is audited as `event`."""

    scope: str
    key: str
    legs: Sequence[Leg]
    origin: Origin | None = None
    event: str = "wallets.posted"

    def document(self) -> dict[str, Any]:
        """As post() takes it."""
        document = {"scope": self.scope, "key": self.key, "legs": self.legs, "event": self.event}
        return document | {"actor": described(self.origin)} if self.origin else document


def described(origin: Origin) -> dict[str, Any]:
    who = origin.actor
    facts = {
        "name": who.name,
        "kind": who.kind.value,
        "id": who.id,
        "on_behalf_of": who.on_behalf_of,
        "impersonator": who.impersonator,
        "address": origin.address,
        "request_id": origin.request_id,
    }
    return {name: value for name, value in facts.items() if value is not None}


class Moved(NamedTuple):
    """What one leg did: the balances are those of right after it."""

    asset: str
    amount: int
    transfer_id: UUID | None
    hold_id: UUID | None
    balance: int  # of the account that was debited, or held
    held: int
    credited: int | None  # the balance of the account that was credited

    @property
    def available(self) -> int:
        return self.balance - self.held


class Outcome(NamedTuple):
    """What a request did, the first time and whenever it is asked again."""

    operation_id: UUID
    posted_at: datetime
    legs: tuple[Moved, ...]
    replayed: bool = False


def outcome(document: Mapping[str, Any]) -> Outcome:
    """What post() answered; the error that it stands for is raised."""
    found = result(document)
    if isinstance(found, BursarError):
        raise found
    return found


def result(document: Mapping[str, Any]) -> Outcome | BursarError:
    """What post() answered, or the error that it stands for."""
    if "error" in document:
        return refusal(document)
    return Outcome(
        UUID(document["operation_id"]),
        datetime.fromisoformat(document["posted_at"]),
        tuple(moved(each) for each in document["legs"]),
        document.get("replayed", False),
    )


def moved(document: Mapping[str, Any]) -> Moved:
    transfer_id, hold_id = document["transfer_id"], document["hold_id"]
    return Moved(
        document["asset"],
        document["amount"],
        UUID(transfer_id) if transfer_id else None,
        UUID(hold_id) if hold_id else None,
        document["balance"],
        document["held"],
        document["credited"],
    )


class InsufficientFunds(BursarError, status=402, code="wallet.insufficient_funds"):
    """The wallet has less than this takes; `balance`, `available` and `needed` say how much."""


class AccountFrozen(BursarError, status=409, code="wallet.account_frozen"):
    """The wallet is frozen: nothing may go out of it until staff open it again."""


class AccountClosed(BursarError, status=409, code="wallet.account_closed"):
    """The account is closed: nothing goes in or out any more."""


class UnknownAccount(BursarError, status=404, code="wallet.unknown_account"):
    """There is no such customer or account."""


class UnknownAsset(BursarError, status=422, code="wallet.unknown_asset"):
    """There is no such currency here."""


class AssetMismatch(BursarError, status=422, code="wallet.asset_mismatch"):
    """The account is in another currency."""


class SameAccount(BursarError, status=422, code="wallet.same_account"):
    """Money cannot go from an account to itself."""


class UnknownHold(BursarError, status=404, code="wallet.unknown_hold"):
    """There is no such hold."""


class HoldClosed(BursarError, status=409, code="wallet.hold_closed"):
    """The hold was captured, voided or has expired already."""


class HoldExpired(BursarError, status=409, code="wallet.hold_expired"):
    """The time of the hold has passed; what it held is free again."""


class HoldOpen(BursarError, status=409, code="wallet.hold_open"):
    """The time of the hold has not passed yet."""


class CaptureTooLarge(BursarError, status=422, code="wallet.capture_too_large"):
    """More than the hold has left; `left` says how much that is."""


class UnknownTransfer(BursarError, status=404, code="wallet.unknown_transfer"):
    """There is no such transfer."""


class ReversalTooLarge(BursarError, status=422, code="wallet.reversal_too_large"):
    """More than is left of the transfer, or it is a reversal itself; `left` says how much."""


class TransferLimit(BursarError, status=422, code="wallet.transfer_limit"):
    """More than may be sent in one day; `left` says what is left of today."""


class BalanceTooLarge(BursarError, status=422, code="wallet.balance_too_large"):
    """The balance would be larger than any that can be kept."""


class BadLeg(BursarError, status=422, code="wallet.bad_leg"):
    """A leg has an unknown verb, an amount of zero or below, a time that is none, notes that
    are no small object, or what belongs to another verb."""


SENTENCES: dict[type[BursarError], str] = {
    InsufficientFunds: "There is not enough in the wallet: {available} available, {needed} needed.",
    AccountFrozen: "The wallet is frozen; support can open it again.",
    AccountClosed: "The account is closed.",
    UnknownAccount: "There is no such customer or account.",
    UnknownAsset: "There is no such currency here.",
    AssetMismatch: "The account is in another currency.",
    SameAccount: "Money cannot go from an account to itself.",
    UnknownHold: "There is no such hold.",
    HoldClosed: "The hold was captured, voided or has expired already.",
    HoldExpired: "The time of the hold has passed; what it held is free again.",
    HoldOpen: "The time of the hold has not passed yet.",
    CaptureTooLarge: "The hold has only {left} left.",
    UnknownTransfer: "There is no such transfer.",
    ReversalTooLarge: "Of this transfer {left} is left to be reversed.",
    TransferLimit: "That is more than may be sent in one day; {left} is left of today.",
    BalanceTooLarge: "The balance would be larger than any that can be kept.",
    BadLeg: "A leg has one of the verbs, what belongs to it, and an amount above zero.",
}
REFUSALS = {kind.code: kind for kind in SENTENCES}


def refusal(document: Mapping[str, Any]) -> BursarError:
    """The error in its words, with exact amounts as members of the problem document."""
    if document["error"] == KeyReused.code:
        return KeyReused.now()
    kind = REFUSALS[document["error"]]
    scale = document.get("scale", 0)
    amounts = {
        name: money.decimal(document[name], scale)
        for name in ("balance", "available", "needed", "left")
        if name in document
    }
    if amounts:
        amounts_and_asset = {**amounts, "currency": document["asset"]}
        return kind(SENTENCES[kind].format(**amounts), **amounts_and_asset)
    return kind(SENTENCES[kind])

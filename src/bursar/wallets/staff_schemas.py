"""Wallets as staff see them, in camelCase; every amount is an exact decimal."""

from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from bursar.core.money import NUMBER, Amount
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Line, Moment, Money, StaffWire
from bursar.wallets.charge_schemas import Currency
from bursar.wallets.ledger import USD
from bursar.wallets.models import AccountStatus

Reason = Annotated[Line, Field(min_length=3, max_length=500)]


class AdjustmentIn(StaffWire):
    """A correction, and why: below zero it is taken from the customer."""

    amount: Annotated[Decimal, Field(allow_inf_nan=False), NUMBER]
    currency: Currency = USD
    reason: Reason


class RejectionIn(StaffWire):
    """Why not."""

    reason: Reason | None = None


class AdjustmentOut(StaffWire):
    """A correction and where it stands."""

    id: UUID
    user_id: UUID | None
    amount: Money
    currency: str
    reason: str
    state: Literal["proposed", "posted", "rejected"]
    proposed_by: UUID
    decided_by: UUID | None
    created_at: Moment
    decided_at: Moment | None
    operation_id: UUID | None


class AdjustmentList(PageFields, StaffWire):
    """One page of corrections."""

    adjustments: list[AdjustmentOut]


class WalletOut(StaffWire):
    """A customer's wallet in one currency."""

    id: UUID
    user_id: UUID | None
    currency: str
    balance: Money
    available: Money
    held: Money
    spent: Money
    overdraft: Money
    status: AccountStatus
    entries: int = Field(description="How many entries it has.")
    created_at: Moment
    updated_at: Moment


class WalletList(PageFields, StaffWire):
    """The wallets of a customer."""

    wallets: list[WalletOut]


class WalletStatusIn(StaffWire):
    """Whether money moves: out of a frozen wallet none does, a closed one is empty and
    stays so until it is opened again."""

    status: AccountStatus
    reason: Reason
    currency: Currency = USD


class OverdraftIn(StaffWire):
    """How far below zero the wallet may go."""

    limit: Annotated[Decimal, Field(ge=0, allow_inf_nan=False), NUMBER]
    currency: Currency = USD
    reason: Reason | None = None


class ReversalIn(StaffWire):
    """How much of a transfer goes back, all that is left of it unless it is said, and why.

    One of several that were made together, as in a redemption of points, goes back with the others
    and without an amount.
    """

    amount: Amount | None = None
    reason: Reason


class Reversed(StaffWire):
    """One transfer, and the one that undid it."""

    transfer_id: UUID
    reverses: UUID
    amount: Money
    currency: str


class ReversalOut(Reversed):
    """What went back."""

    operation_id: UUID
    posted_at: Moment
    transfers: list[Reversed] = Field(description="It, and those that were made together with it.")


class Side(StaffWire):
    """One side of a transfer."""

    account_id: UUID
    purpose: str
    user_id: UUID | None
    entry: int
    balance_after: Money


class TransferOut(StaffWire):
    """One debit and one credit."""

    id: UUID
    operation_id: UUID
    currency: str
    amount: Money
    kind: str
    category: str | None
    debit: Side
    credit: Side
    reverses: UUID | None
    reversed: Money = Field(description="How much of it has gone back.")
    hold_id: UUID | None
    posted_at: Moment
    effective_at: Moment | None
    metadata: dict[str, Any] | None


class Entry(StaffWire):
    """One line of a statement."""

    id: UUID
    entry: int
    amount: Money = Field(description="Below zero where it went out.")
    balance_after: Money | None = Field(
        description="Of what was posted; null in a statement of what took effect."
    )
    kind: str
    category: str | None
    counterpart: str = Field(description="The purpose of the account on the other side.")
    counterpart_user_id: UUID | None
    reverses: UUID | None
    hold_id: UUID | None
    operation_id: UUID
    posted_at: Moment
    effective_at: Moment
    metadata: dict[str, Any] | None


class StatementOut(PageFields, StaffWire):
    """What a wallet held at two moments, and what happened in between, the oldest first."""

    user_id: UUID
    wallet_id: UUID
    currency: str
    by: Literal["posted", "effective"]
    from_: Moment = Field(serialization_alias="from", description="From this moment on, …")
    to: Moment = Field(description="… until just before this one.")
    opening_balance: Money
    total_in: Money
    total_out: Money
    closing_balance: Money
    entries: list[Entry]


class TrialLine(StaffWire):
    """Accounts of one purpose, added up: what they owe, and what they are owed."""

    purpose: str = Field(description="`wallet`: all customers' wallets.")
    accounts: int
    debit: Money
    credit: Money


class TrialAsset(StaffWire):
    """The books in one currency."""

    currency: str
    lines: list[TrialLine]
    debit: Money
    credit: Money
    difference: Money = Field(description="Always zero.")


class TrialBalance(StaffWire):
    """The books of the whole company, at one moment."""

    at: Moment
    balanced: bool
    assets: list[TrialAsset]


class AssetIn(StaffWire):
    """Another currency, or points; it is for ever."""

    code: Currency
    scale: Annotated[
        int, Field(ge=0, le=12, strict=True, description="Digits behind the decimal point."), WHOLE
    ]
    kind: Literal["currency", "points"] = "currency"


class AssetOut(StaffWire):
    """What accounts may be kept in."""

    code: str
    scale: int
    kind: str
    created_at: Moment


class AssetList(PageFields, StaffWire):
    """What accounts may be kept in."""

    assets: list[AssetOut]

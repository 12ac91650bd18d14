"""Wallets as they go over the wire to customers; amounts are numbers with all their digits."""

from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from bursar.core import money
from bursar.core.money import Amount
from bursar.core.paging import PageFields
from bursar.core.wire import Line, Moment, Money, Wire
from bursar.wallets.charge_schemas import Currency
from bursar.wallets.ledger import USD, Outcome
from bursar.wallets.models import AccountStatus, Hold, HoldState
from bursar.wallets.queries import Balance, Entry, Wallet

Day = Annotated[str, Field(json_schema_extra={"format": "date"})]


class BalanceOut(Wire):
    """What a customer has in dollars: all that ever came in, what went out, what is left."""

    user_id: UUID
    total_balance: Money = Field(description="What is in the wallet and what was spent of it.")
    spent_balance: Money
    available_balance: Money = Field(description="What can be spent now: without what is held.")
    held_balance: Money
    currency: str

    @classmethod
    def of(cls, balance: Balance) -> "BalanceOut":
        def exactly(amount: int) -> Decimal:
            return money.decimal(amount, balance.scale)

        return cls(
            user_id=balance.user_id,
            total_balance=exactly(balance.posted + balance.spent),
            spent_balance=exactly(balance.spent),
            available_balance=exactly(balance.posted - balance.held),
            held_balance=exactly(balance.held),
            currency=balance.currency,
        )


class WalletOut(Wire):
    """One wallet, in one currency or in points."""

    id: UUID
    currency: str
    balance: Money = Field(description="All that was posted, also what is held of it.")
    available: Money
    held: Money
    overdraft_limit: Money
    status: AccountStatus
    created_at: Moment

    @classmethod
    def of(cls, wallet: Wallet) -> "WalletOut":
        row, scale = wallet.row, wallet.scale
        return cls(
            id=row.id,
            currency=row.asset,
            balance=money.decimal(row.posted, scale),
            available=money.decimal(row.posted - row.held, scale),
            held=money.decimal(row.held, scale),
            overdraft_limit=money.decimal(row.overdraft or 0, scale),
            status=AccountStatus(row.status),
            created_at=row.created_at,
        )


class WalletList(PageFields, Wire):
    """The wallets of a customer."""

    accounts: list[WalletOut]


class TransactionOut(Wire):
    """One entry of a wallet. Who stands on the other side is not said."""

    id: UUID
    currency: str
    direction: Literal["credit", "debit"]
    amount: Money
    balance_after: Money
    kind: str
    category: str | None
    description: str | None
    note: str | None
    reverses: UUID | None
    hold_id: UUID | None
    created_at: Moment
    effective_at: Moment

    @classmethod
    def of(cls, entry: Entry, wallet: Wallet) -> "TransactionOut":
        return cls(
            id=entry.id,
            currency=wallet.row.asset,
            direction="debit" if entry.amount < 0 else "credit",
            amount=money.decimal(abs(entry.amount), wallet.scale),
            balance_after=money.decimal(entry.balance, wallet.scale),
            kind=entry.kind,
            category=entry.category,
            description=entry.description,
            note=entry.note,
            reverses=entry.reverses,
            hold_id=entry.hold_id,
            created_at=entry.posted_at,
            effective_at=entry.effective_at,
        )


class TransactionList(PageFields, Wire):
    """One page of a wallet's entries, the newest first."""

    transactions: list[TransactionOut]


class HoldOut(Wire):
    """Money that is set aside until it is known what something costs."""

    id: UUID
    currency: str
    amount: Money
    captured: Money = Field(description="How much of it was taken.")
    held: Money = Field(description="What is still set aside.")
    state: HoldState
    category: str | None
    description: str | None
    created_at: Moment
    expires_at: Moment
    closed_at: Moment | None

    @classmethod
    def of(cls, row: Hold, scale: int) -> "HoldOut":
        held = row.amount - row.captured if row.state == HoldState.OPEN else 0
        return cls(
            id=row.id,
            currency=row.asset,
            amount=money.decimal(row.amount, scale),
            captured=money.decimal(row.captured, scale),
            held=money.decimal(held, scale),
            state=HoldState(row.state),
            category=row.category,
            description=(row.about or {}).get("description"),
            created_at=row.created_at,
            expires_at=row.expires_at,
            closed_at=row.closed_at,
        )


class HoldList(PageFields, Wire):
    """One page of a customer's holds, the newest first."""

    holds: list[HoldOut]


class SpendingOut(Wire):
    """What was spent in some days, less what came back."""

    total_spent: Money
    currency: str
    first_day: Day
    last_day: Day
    by_category: dict[str, Money]
    by_day: dict[str, Money] = Field(description="Every day, those without spending as 0.")


class Funding(Wire):
    """Money that staff put into a wallet."""

    user_id: UUID
    amount: Amount
    currency: Currency = USD


class Funded(Wire):
    """The money is there."""

    message: str
    transaction_id: UUID
    user_id: UUID
    amount: Money
    balance: Money
    currency: str
    created_at: Moment

    @classmethod
    def of(cls, outcome: Outcome, user_id: UUID, scale: int) -> "Funded":
        [moved] = outcome.legs
        return cls(
            message="The money is in the wallet.",
            transaction_id=moved.transfer_id or outcome.operation_id,
            user_id=user_id,
            amount=money.decimal(moved.amount, scale),
            balance=money.decimal(moved.credited or 0, scale),
            currency=moved.asset,
            created_at=outcome.posted_at,
        )


class NewTransfer(Wire):
    """Money that goes from your wallet to somebody else's."""

    to_user_id: UUID
    amount: Amount
    currency: Currency = USD
    note: Annotated[Line, Field(max_length=200)] | None = None


class TransferOut(Wire):
    """The money is sent; the balance is yours after it."""

    id: UUID
    to_user_id: UUID
    amount: Money
    currency: str
    note: str | None
    balance: Money
    created_at: Moment

    @classmethod
    def of(cls, outcome: Outcome, asked: NewTransfer, scale: int) -> "TransferOut":
        [moved] = outcome.legs
        return cls(
            id=moved.transfer_id or outcome.operation_id,
            to_user_id=asked.to_user_id,
            amount=money.decimal(moved.amount, scale),
            currency=moved.asset,
            note=asked.note or None,
            balance=money.decimal(moved.balance, scale),
            created_at=outcome.posted_at,
        )

"""Where the money of payments goes in the ledger: each move under the name of its fact, once.

What came for the wallet is the customer's; what came for something else is revenue. Where the
wallet cannot take it, it waits in `suspense`. What a provider takes back although the wallet does
not have it any more is the company's loss, and stands in `adjustments`, or in `disputes`.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import money
from bursar.payments.models import Dispute, Payment, Refund
from bursar.payments.purposes import TOP_UP
from bursar.wallets import assets, ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Leg, Request
from bursar.wallets.models import Account

SCOPE = "payments"
TRIES = 3  # of a wallet whose balance changes between our look and our move
WALLET_SHUT = (ledger.AccountClosed, ledger.UnknownAccount, ledger.BalanceTooLarge)
WALLET_SHORT = (ledger.InsufficientFunds, ledger.AccountFrozen)


class Want(NamedTuple):
    """What is to be taken under this key: at most so much of the wallet."""

    key: str
    most: int
    legs: Callable[[int], list[Leg]]  # by how much of it the wallet has


async def minor(db: AsyncSession, amount: Decimal, currency: str) -> int:
    return money.minor(amount, (await assets.asset(db, currency)).scale)


def wallet_of(payment: Payment) -> str | None:
    """Where a top-up went; None for what was paid for something else, or cannot be reached."""
    if payment.purpose != TOP_UP or payment.user_id is None or payment.unclaimed:
        return None
    return ledger.user(payment.user_id)


def earned(payment: Payment) -> str:
    """The company's account that has the money of what is in no wallet."""
    if payment.unclaimed:
        return "suspense"
    return "adjustments" if payment.purpose == TOP_UP else "revenue"


def asked(db: AsyncSession, key: str, *legs: Leg) -> Request:
    return Request(SCOPE, key, legs, db.info.get("origin"), "payments.posted")


async def receive(
    db: AsyncSession, payment: Payment, amount: Decimal, fee: Decimal | None, key: str
) -> bool:
    """Money has come in. Whether its owner could take it."""
    whole = await minor(db, amount, payment.currency)
    about = {"payment_id": str(payment.id), "method": payment.payment_method}

    def coming(to: str, kind: str) -> Request:
        leg = ledger.transfer(
            "clearing",
            to,
            whole,
            payment.currency,
            kind=kind,
            category=None if kind == "funding" else payment.purpose,
            metadata=about,
        )
        return asked(db, f"{key}:captured", leg)

    fees = [await paying_fee(db, payment, fee, key)] if fee else []
    to = wallet_of(payment)
    if to is None:
        gone = payment.purpose == TOP_UP
        await wallets.post_all(db, [coming("suspense" if gone else "revenue", "payment"), *fees])
        return not gone
    try:
        await wallets.post_all(db, [coming(to, "funding"), *fees])
    except WALLET_SHUT:
        await wallets.post_all(db, [coming("suspense", "payment"), *fees])
        return False
    return True


async def pay_fee(db: AsyncSession, payment: Payment, fee: Decimal, key: str) -> None:
    """Told after the money had come."""
    await wallets.post(db, await paying_fee(db, payment, fee, key))


async def paying_fee(db: AsyncSession, payment: Payment, fee: Decimal, key: str) -> Request:
    """What the provider keeps of it never reaches our bank."""
    whole = await minor(db, fee, payment.currency)
    leg = ledger.transfer(
        "fees",
        "clearing",
        whole,
        payment.currency,
        kind="fee",
        metadata={"payment_id": str(payment.id)},
    )
    return asked(db, f"{key}:fee", leg)


def moving(refund: Refund, debit: str, credit: str, amount: int, currency: str) -> Leg:
    about = {"payment_id": str(refund.payment_id), "refund_id": str(refund.id)}
    return ledger.transfer(debit, credit, amount, currency, kind="refund", metadata=about)


async def set_aside(db: AsyncSession, payment: Payment, refund: Refund) -> None:
    """What is to go back cannot be spent any more; the wallet's refusal refuses the refund."""
    whole = await minor(db, refund.amount, payment.currency)
    debit = wallet_of(payment) or earned(payment)
    leg = moving(refund, debit, "refunds", whole, payment.currency)
    await wallets.post(db, asked(db, f"refund:{refund.id}", leg))


async def give_to_wallet(db: AsyncSession, payment: Payment, refund: Refund) -> None:
    """What was paid for something goes into the customer's wallet, past the provider."""
    whole = await minor(db, refund.amount, payment.currency)
    leg = moving(refund, earned(payment), f"user:{payment.user_id}", whole, payment.currency)
    await wallets.post(db, asked(db, f"refund:{refund.id}", leg))


async def pay_out(db: AsyncSession, payment: Payment, refund: Refund) -> None:
    """Staff give it back by hand: out of the wallet and out of the house in one."""
    whole = await minor(db, refund.amount, payment.currency)
    debit = wallet_of(payment) or earned(payment)
    legs = (
        moving(refund, debit, "refunds", whole, payment.currency),
        moving(refund, "refunds", "clearing", whole, payment.currency),
    )
    await wallets.post(db, asked(db, f"refund:{refund.id}", *legs))


async def send_away(db: AsyncSession, payment: Payment, refund: Refund) -> None:
    """The provider has given it back."""
    whole = await minor(db, refund.amount, payment.currency)
    leg = moving(refund, "refunds", "clearing", whole, payment.currency)
    await wallets.post(db, asked(db, f"refund:{refund.id}:done", leg))


async def bring_back(db: AsyncSession, payment: Payment, refund: Refund, *, was_done: bool) -> None:
    """The provider could not give it back, or the customer's bank has returned it."""
    debit, name = ("clearing", "returned") if was_done else ("refunds", "failed")
    await put(db, payment, refund, debit, home_of(payment, was_done=was_done), name)


async def hand_over(db: AsyncSession, payment: Payment, refund: Refund) -> None:
    """It was taken for one that failed, and had been done before: what the company has kept of it
    is the customer's."""
    kept, home = home_of(payment, was_done=False), home_of(payment, was_done=True)
    if kept != home:
        await put(db, payment, refund, kept, home, "returned")


def home_of(payment: Payment, *, was_done: bool) -> str:
    """Whose the money is that could not go back: once it was on its way, the customer's."""
    owner = wallet_of(payment)
    if owner is None and was_done:
        owner = ledger.user(payment.user_id) if payment.user_id else "suspense"
    return owner or earned(payment)


async def put(
    db: AsyncSession, payment: Payment, refund: Refund, debit: str, credit: str, name: str
) -> None:
    whole = await minor(db, refund.amount, payment.currency)
    key = f"refund:{refund.id}:{name}"
    try:
        leg = moving(refund, debit, credit, whole, payment.currency)
        await wallets.post(db, asked(db, key, leg))
    except WALLET_SHUT:
        if debit != "suspense":
            leg = moving(refund, debit, "suspense", whole, payment.currency)
            await wallets.post(db, asked(db, key, leg))


async def take_for_refund(
    db: AsyncSession, payment: Payment, refund: Refund | None, given: Sequence[Refund] = ()
) -> None:
    """Money that has gone back already, at the provider's own page or by a bounced check; and what
    we had given back of that check, which never was any money."""
    wants = [await fetching_back(db, payment, each) for each in given]
    if refund:
        wants.append(await taking(db, payment, refund))
    await take(db, payment, *wants)


async def taking(db: AsyncSession, payment: Payment, refund: Refund) -> Want:
    whole = await minor(db, refund.amount, payment.currency)
    owner, currency = wallet_of(payment), payment.currency

    def legs(taken: int) -> list[Leg]:
        rest = whole - taken
        found = [moving(refund, owner, "refunds", taken, currency)] if owner and taken else []
        if rest:
            short = "adjustments" if owner else earned(payment)
            found.append(moving(refund, short, "refunds", rest, currency))
        return [*found, moving(refund, "refunds", "clearing", whole, currency)]

    return Want(f"refund:{refund.id}", whole if owner else 0, legs)


async def fetching_back(db: AsyncSession, payment: Payment, refund: Refund) -> Want:
    whole = await minor(db, refund.amount, payment.currency)

    def legs(taken: int) -> list[Leg]:
        sides = {f"user:{payment.user_id}": taken, "adjustments": whole - taken}
        return [
            moving(refund, debit, "clearing", much, payment.currency)
            for debit, much in sides.items()
            if much
        ]

    return Want(f"refund:{refund.id}:bounced", whole, legs)


async def hold_dispute(db: AsyncSession, payment: Payment, dispute: Dispute) -> Decimal:
    """The provider has taken the money until it decides; so do we, as far as it is there."""
    scale = (await assets.asset(db, payment.currency)).scale
    whole = money.minor(dispute.amount, scale)
    most = money.minor(dispute.counted, scale) if dispute.counted else 0
    owner = wallet_of(payment)

    def legs(taken: int) -> list[Leg]:
        out = disputed(dispute, "disputes", "clearing", whole, payment.currency)
        held = taken if owner else most
        debit = owner or earned(payment)
        first = [disputed(dispute, debit, "disputes", held, payment.currency)] if held else []
        return [*first, out]

    key = f"dispute:{dispute.provider_dispute_id}:opened"
    [taken] = await take(db, payment, Want(key, most if owner else 0, legs))
    return money.decimal(taken if owner else most, scale)


async def release_dispute(db: AsyncSession, payment: Payment, dispute: Dispute) -> None:
    """Won: the provider gives it back, and so do we."""
    scale = (await assets.asset(db, payment.currency)).scale
    whole = money.minor(dispute.amount, scale)
    back = [disputed(dispute, "clearing", "disputes", whole, payment.currency)]
    key = f"dispute:{dispute.provider_dispute_id}:won"
    if not dispute.held:
        await wallets.post(db, asked(db, key, *back))
        return
    held = money.minor(dispute.held, scale)
    credit = wallet_of(payment) or ("suspense" if payment.purpose == TOP_UP else "revenue")
    try:
        leg = disputed(dispute, "disputes", credit, held, payment.currency)
        await wallets.post(db, asked(db, key, *back, leg))
    except WALLET_SHUT:
        leg = disputed(dispute, "disputes", "suspense", held, payment.currency)
        await wallets.post(db, asked(db, key, *back, leg))


def disputed(dispute: Dispute, debit: str, credit: str, amount: int, currency: str) -> Leg:
    about = {"payment_id": str(dispute.payment_id), "dispute_id": str(dispute.id)}
    return ledger.transfer(debit, credit, amount, currency, kind="dispute", metadata=about)


async def take(db: AsyncSession, payment: Payment, *wants: Want) -> list[int]:
    """Takes what is there of the wallet; answers how much that was for each."""
    for again in range(TRIES + 1):
        there = await available(db, payment) if again < TRIES else 0
        found = []
        for want in wants:
            found.append(min(want.most, there))
            there -= found[-1]
        pairs = zip(wants, found, strict=True)
        try:
            requests = [asked(db, each.key, *each.legs(taken)) for each, taken in pairs]
            async with db.begin_nested():  # of several, those before the refused one were posted
                await wallets.post_all(db, requests)
            break
        except (*WALLET_SHORT, *WALLET_SHUT):
            if again == TRIES:
                raise
    return found


async def available(db: AsyncSession, payment: Payment) -> int:
    """What could be taken out of the customer's wallet now, of its own money."""
    if payment.user_id is None:
        return 0
    query = select(Account.posted - Account.held).where(
        Account.owner_id == payment.user_id,
        Account.asset == payment.currency,
        Account.status == "open",
    )
    return max(0, await db.scalar(query) or 0)

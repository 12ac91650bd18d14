"""Money and what belongs to it in the scene of the matrix: who has what, and what is sent where."""

from typing import Any
from uuid import UUID, uuid4

from bursar.core import exact
from bursar.wallets import ledger
from bursar.wallets.ledger import POINTS
from tests.world import CARL, DORA

TRANSFER = UUID("00000000-0000-7000-8000-00000000cafe")
CHARGE = {"userId": str(CARL.id), "amount": "0.01", "category": "models"}
REASON = "They wrote to us"

# What a caller would send; {n} is another number each time (tests/scene.py).
MONEY_BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/add-funds": {"user_id": str(CARL.id), "amount": 5},
    "POST /api/v1/payments": {"payment_method": "cash", "amount": 5},
    "POST /api/v1/payments/{payment_id}/refunds": {"amount": "0.01"},
    "POST /api/v1/admin/payments": {
        "userId": str(CARL.id),
        "paymentMethod": "cash",
        "amount": 5,
    },
    "POST /api/v1/admin/payments/{payment_id}/confirmation": {"reason": REASON},
    "POST /api/v1/admin/payments/{payment_id}/bounce": {"reason": REASON},
    "POST /api/v1/wallets/transfers": {
        "to_user_id": str(DORA.id),
        "amount": "0.01",
        "note": "number {n}",
    },
    "PUT /api/v1/users/{user_id}/auto-topup": {"threshold": 5, "amount": 20},
    "POST /api/v1/admin/reconciliation/differences/{difference_id}/closure": {"note": REASON},
    "POST /api/v1/admin/bank-lines/{line_id}/assignment": {"paymentId": str(TRANSFER)},
    "POST /api/v1/admin/assets": {"code": "GBP", "scale": 2},
    "POST /api/v1/admin/wallets/charges": CHARGE,
    "POST /api/v1/admin/wallets/charges/bulk": {"charges": [{**CHARGE, "key": "k{n}"}]},
    "POST /api/v1/admin/wallets/holds": {**CHARGE, "seconds": 60},
    "POST /api/v1/admin/wallets/holds/{hold_id}/captures": {"amount": "0.5"},
    "POST /api/v1/admin/transfers/{transfer_id}/reversal": {"amount": "0.1", "reason": REASON},
    "POST /api/v1/admin/users/{user_id}/adjustments": {"amount": "0.5", "reason": REASON},
    "POST /api/v1/admin/users/{user_id}/rewards/grants": {"points": 5, "reason": REASON},
    "POST /api/v1/admin/adjustments/{adjustment_id}/rejection": {"reason": REASON},
    "PUT /api/v1/admin/users/{user_id}/wallet/overdraft": {"limit": "10", "reason": REASON},
    "PUT /api/v1/admin/users/{user_id}/wallet/status": {"status": "frozen", "reason": REASON},
    "POST /api/v1/users/{user_id}/rewards/redemptions": {"points": 1000},
    "POST /api/v1/admin/rewards/rules": {"name": "Rule {n}", "pointsPerUnit": "1"},
    "PUT /api/v1/admin/rewards/rules/{rule_id}": {"name": "Rule {n}", "pointsPerUnit": "2"},
    "POST /api/v1/admin/rewards/tiers": {
        "name": "Tier {n}",
        "fromPoints": 123_456,
        "multiplier": "1.5",
    },
    "PUT /api/v1/admin/rewards/tiers/{tier_id}": {
        "name": "Iron {n}",
        "fromPoints": 777_777,
        "multiplier": "1.5",
    },
}

EUROS = "insert into assets (code, scale) values ('EUR', 2) on conflict do nothing"
OPEN_AGAIN = """
update accounts set status = 'open', overdraft = 0
where purpose = 'wallet' and (status <> 'open' or overdraft > 0)
"""
PROPOSED = """
insert into adjustments (user_id, asset, amount, reason, proposed_by)
values ($1, 'USD', 1000, 'They wrote to us', $2) returning id
"""
RULE = "insert into reward_rules (name, points_per_unit) values ('A rule', 1) returning id"
TIER = """
insert into reward_tiers (name, from_points, multiplier) values ('Iron', 777777, 1.1) returning id
"""
PAYMENT = """
insert into payments (user_id, amount, payment_method, provider)
values ($1, 20, 'cash', 'manual') returning id
"""
CAPTURED = "update payments set captured = amount where id = $1"
EVENT = """
insert into payment_events (provider, event_id, type, payload)
values ('stripe', uuid7()::text, 'invoice.created', '{}') returning id
"""


async def set_out_money(database: Any, *, proposer: UUID) -> dict[str, Any]:
    """Carl and Dora have money and points; a hold, a charge and a proposal are there to work on."""
    await database.execute(EUROS)
    carl, dora = ledger.user(str(CARL.id)), ledger.user(str(DORA.id))
    given = (
        ledger.transfer("clearing", carl, 100_000_000, kind="funding"),
        ledger.transfer("clearing", dora, 100_000_000, kind="funding"),
        ledger.transfer("rewards", carl, 5_000, POINTS, kind="earn"),
        ledger.transfer("rewards", dora, 5_000, POINTS, kind="earn"),
    )
    charge = ledger.transfer(carl, "revenue", 1_000_000, kind="charge")
    hold = ledger.hold(carl, 1_000_000, kind="charge", seconds=3600)
    await database.execute(OPEN_AGAIN)
    requests = [ledger.Request("scene", str(uuid4()), legs) for legs in (given, (charge,), (hold,))]
    documents = exact.dumps([request.document() for request in requests])
    answers = exact.loads(await database.fetchval("select post($1::jsonb)", documents))
    _, [charged], [held] = (ledger.outcome(each).legs for each in answers)
    await database.execute("delete from reward_rules")
    await database.execute("delete from reward_tiers where from_points in (777777, 123456)")
    payment = await database.fetchval(PAYMENT, CARL.id)
    await database.execute(CAPTURED, payment)
    return {
        **await set_out_around(database),
        "payment_id": payment,
        "event_id": await database.fetchval(EVENT),
        "transfer_id": charged.transfer_id,
        "hold_id": held.hold_id,
        "adjustment_id": await database.fetchval(PROPOSED, CARL.id, proposer),
        "rule_id": await database.fetchval(RULE),
        "tier_id": await database.fetchval(TIER),
    }


# Each is new every time; who has a card, has it as the default.
AROUND = {
    "method_id": """
      insert into payment_methods (user_id, provider, token, is_default)
      values ($1, 'demo', translate(uuid7()::text, '0123456789-', 'ghijklmnopq'), true)
      returning id""",
    "line_id": """
      with statement as (
        insert into bank_statements (sha256, file_name, format, lines, new_lines, imported_by)
        values (sha256(uuid_send(uuid7())), 'x', 'csv', 1, 1, 'scene') returning id)
      insert into bank_lines (statement_id, hash, booked_on, amount, currency)
      select id, sha256(uuid_send(id)), current_date, 5, 'USD' from statement
      where $1::uuid is not null returning id""",
    "difference_id": """
      with run as (
        insert into reconciliations (since, until) values (now(), now() + interval '1 day')
        returning id)
      insert into reconciliation_differences (kind, provider, subject, happened_at, seen_by)
      select 'missing_here', 'stripe', id::text, now(), id from run
      where $1::uuid is not null returning id""",
}
TOP_UP = """
insert into auto_topups (user_id, threshold, amount) values ($1, 5, 20)
on conflict (user_id) do nothing
"""
AWAITED = """
insert into payments (user_id, amount, payment_method, provider)
values ($1, 5, 'bank_transfer', 'manual') returning id
"""
MATCH = """
insert into bank_matches (line_id, payment_id, score, reason)
values ($1, $2, 30, 'amount') returning id
"""


EXPECTED = """
insert into payments (id, user_id, amount, payment_method, provider)
values ($1, $2, 5, 'bank_transfer', 'manual') on conflict do nothing
"""


async def set_out_around(database: Any) -> dict[str, Any]:
    """Saved methods, top-ups, a difference, and a bank's line with a match."""
    await database.execute("delete from payment_methods")
    found = {name: await database.fetchval(query, CARL.id) for name, query in AROUND.items()}
    for who in (CARL, DORA):
        await database.execute(TOP_UP, who.id)
    await database.execute(EXPECTED, TRANSFER, CARL.id)
    awaited = await database.fetchval(AWAITED, CARL.id)
    found["match_id"] = await database.fetchval(MATCH, found["line_id"], awaited)
    return found

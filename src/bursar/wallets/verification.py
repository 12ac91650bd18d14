"""Replays the ledger while it runs, in one snapshot, and names the first row that is wrong.

Every check is one statement that answers only what is wrong; rows are counted where they lie. What
guards.sql refuses is looked for here all the same: whoever owns the server can switch that off.
Amounts are in the smallest unit of their asset.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

# A ledger that has just been filled has no statistics yet, so the planner is told what fits a large
# one: for a small one it makes no difference.
TERMS = """
set local statement_timeout = 0;
set local work_mem = '128MB';
set local max_parallel_workers_per_gather = 2;
set local enable_nestloop = off;
set local jit = off
"""

ZERO_SUM = """
  select 'unbalanced' as kind, null::timestamptz as at, null::uuid as id, format(
    'All accounts in %s add up to %s, expected 0.', asset, sum(posted)) as detail
  from accounts group by asset having sum(posted) <> 0
"""

CHAINS = """
  with chain as (
    select *, coalesce(lag(seq) over side, 0) as seq_before,
      coalesce(lag(after) over side, 0)::numeric as balance_before,
      lag(posted_at) over side as posted_before
    from entries
    -- what stands before the first entry is no chain, and the first one none the worse
    window side as (partition by account, seq > 0 order by seq, id)
  )
  select case
      when seq <> seq_before + 1 then 'gap'
      when after <> balance_before + delta then 'wrong_balance'
      else 'back_in_time'
    end as kind, posted_at as at, id,
    format('Transfer %s is entry %s of account %s; ', id, seq, account) || case
      when seq <> seq_before + 1 then format('expected entry %s.', seq_before + 1)
      when after <> balance_before + delta
        then format('its balance there is %s, expected %s.', after, balance_before + delta)
      else format('it was posted at %s, expected %s or later.', posted_at, posted_before)
    end as detail
  from chain
  where seq <> seq_before + 1 or after <> balance_before + delta or posted_at < posted_before
"""

ACCOUNTS = """
  with replayed as (
    select account, max(seq) as seq, sum(delta) as posted, sum(spent) as spent,
      max(posted_at) as moved_at
    from entries group by account
  ), replay as (
    select accounts.*, coalesce(replayed.seq, 0) as its_seq,
      coalesce(replayed.posted, 0) as its_posted, coalesce(replayed.spent, 0) as its_spent,
      replayed.moved_at as its_moved_at
    from accounts left join replayed on account = id
  )
  select 'wrong_account' as kind, its_moved_at as at, id, format(
    'Account %s says: %s; expected by its entries: %s.', id,
    format('balance %s, spent %s, %s entries, moved at %s', posted, spent, seq,
      coalesce(moved_at::text, 'no time')),
    format('balance %s, spent %s, %s entries, moved at %s', its_posted, its_spent, its_seq,
      coalesce(its_moved_at::text, 'no time'))
  ) as detail
  from replay
  where (posted, spent, seq, moved_at) is distinct from
    (its_posted, its_spent, its_seq, its_moved_at)
"""

HELD = """
  with open as (
    select account_id, sum(amount::numeric - captured) as held from holds where state = 'open'
    group by account_id
  )
  select 'wrong_held' as kind, moved_at as at, id, format(
    'Account %s says that %s is held, expected %s by its open holds.',
    coalesce(id, account_id), coalesce(accounts.held, 0), coalesce(open.held, 0)) as detail
  from accounts full join open on account_id = id
  where id is null or accounts.held <> coalesce(open.held, 0)
"""

LIMITS = """
  select 'beyond_limit' as kind, moved_at as at, id, format(
    'Account %s has %s available, expected at least %s.', id, posted::numeric - held, -overdraft)
    as detail
  from accounts where posted::numeric - held < -overdraft::numeric
"""

ASSETS = """
  select 'wrong_asset' as kind, posted_at as at, transfers.id, format(
    'Transfer %s is in %s; its accounts are in %s and %s.', transfers.id, transfers.asset,
    coalesce(debit.asset, 'nothing'), coalesce(credit.asset, 'nothing')) as detail
  from transfers
  left join accounts as debit on debit.id = debit_id
  left join accounts as credit on credit.id = credit_id
  where debit.asset is distinct from transfers.asset
    or credit.asset is distinct from transfers.asset
  union all
  select 'wrong_asset', holds.created_at, holds.id, format(
    'Hold %s is in %s; its account is in %s.', holds.id, holds.asset,
    coalesce(accounts.asset, 'nothing'))
  from holds left join accounts on accounts.id = account_id
  where accounts.asset is distinct from holds.asset
  union all
  select 'wrong_asset', moved_at, id, format('Account %s is in %s, which is no asset.', id, asset)
  from accounts where not exists (select from assets where code = asset)
"""

OPERATIONS = """
  select 'empty_operation' as kind, created_at as at, id, format(
    'The outcome of operation %s (%s, %s) names no transfer and no hold.', id, scope, key) as detail
  from operations
  where coalesce(jsonb_array_length(
      case jsonb_typeof(outcome -> 'legs') when 'array' then outcome -> 'legs' end), 0) = 0
    or jsonb_path_exists(outcome, '$.legs[*] ?
      (!exists(@.transfer_id ? (@ != null)) && !exists(@.hold_id ? (@ != null)))')
  union all
  select 'wrong_outcome', min(happened), operation, format(
    'The outcome of operation %s names transfer %s %s times.', operation, transfer, count(*))
  from legs where transfer is not null group by operation, transfer having count(*) > 1
  union all
  select 'wrong_outcome', created_at, id, format(
    'The outcome of operation %s is that of %s.', id,
    coalesce(outcome ->> 'operation_id', 'nothing'))
  from operations where outcome ->> 'operation_id' is distinct from id::text
"""

TRANSFERS = """
  with named as (select * from legs where transfer is not null)
  select case
      when named.transfer is null then 'unknown_operation'
      when transfers.id is null then 'missing_transfer'
      else 'wrong_outcome'
    end as kind, least(posted_at, happened) as at, coalesce(transfers.id, operation) as id,
    case
      when named.transfer is null then format(
        'No outcome names transfer %s, expected that of operation %s.', transfers.id, operation_id)
      when transfers.id is null then format(
        'Operation %s made transfer %s, which is not there.', operation, named.transfer)
      else format('Transfer %s moved %s; the outcome of operation %s says %s.', transfers.id,
        format('%s %s at %s for operation %s (balances %s and %s)', transfers.amount,
          transfers.asset, posted_at, operation_id, debit_after, credit_after), operation,
        format('%s %s at %s (balances %s and %s)',
          named.amount, named.asset, happened, balance, credited))
    end as detail
  from named full join transfers on transfers.id::text = named.transfer
  where named.transfer is null or transfers.id is null or operation <> operation_id
    or happened <> posted_at or hold is distinct from hold_id::text
    or (named.amount, named.asset, balance, credited) is distinct from
      (transfers.amount::text, transfers.asset::text, debit_after::text, credit_after::text)
"""

HOLDS = """
  with named as (select * from legs where transfer is null and hold is not null),
  deeds as (
    select id, operation_id as by, created_at as moment, 'opened' as verb, amount, asset from holds
    union all
    select id, closed_by, closed_at, state, null, asset from holds
    where state in ('voided', 'expired')
  )
  select case
      when hold is null then 'unknown_operation'
      when id is null then 'missing_hold'
      else 'wrong_outcome'
    end as kind, least(moment, happened) as at, coalesce(id, operation) as id,
    case
      when hold is null then format(
        'No outcome says that hold %s was %s, expected that of operation %s.', id, verb, by)
      when id is null then format(
        'Operation %s opened or closed hold %s, which is not there, or does not say so.',
        operation, hold)
      else format('Hold %s of %s %s was %s at %s; the outcome of operation %s says %s %s at %s.',
        id, deeds.amount, deeds.asset, verb, moment, operation, named.amount, named.asset, happened)
    end as detail
  from named full join deeds on id::text = hold and by = operation
  where hold is null or id is null or happened <> moment or named.asset <> deeds.asset
    or named.amount <> deeds.amount::text
"""

CAPTURES = """
  with moved as (
    select hold_id, sum(amount) as captured, min(posted_at) as at, array_agg(operation_id) as by
    from transfers where hold_id is not null group by hold_id
  )
  select 'wrong_captured' as kind, coalesce(created_at, at) as at, coalesce(id, hold_id) as id,
    case
      when id is null then format('Hold %s is not there, but transfers captured %s of it.',
        hold_id, moved.captured)
      when holds.captured <> coalesce(moved.captured, 0) then format(
        'Hold %s says that %s is captured, expected %s by its transfers.', id, holds.captured,
        coalesce(moved.captured, 0))
      else format(
        'Hold %s was captured by operation %s, which has no transfer of it.', id, closed_by)
    end as detail
  from holds full join moved on hold_id = id
  where id is null or holds.captured <> coalesce(moved.captured, 0)
    or (state = 'captured' and closed_by <> all (coalesce(by, '{}')))
  union all
  select 'wrong_captured', posted_at, transfers.id, format(
    'Transfer %s captures hold %s from account %s, expected %s.', transfers.id, hold_id, debit_id,
    account_id)
  from transfers join holds on holds.id = hold_id where debit_id <> account_id
"""

REVERSALS = """
  with back as (
    select *, sum(amount) over (partition by reverses order by posted_at, id) as reversed
    from transfers where reverses is not null
  )
  select 'wrong_reversal' as kind, back.posted_at as at, back.id, format(
    'Transfer %s reverses %s, ', back.id, back.reverses) || case
      when original.id is null then 'which is not there.'
      when original.reverses is not null then 'which is a reversal itself.'
      when back.reversed > original.amount then format(
        'of which %s would be reversed, expected %s at most.', back.reversed, original.amount)
      else format('but not the way it went, expected from %s to %s in %s.', original.credit_id,
        original.debit_id, original.asset)
    end as detail
  from back left join transfers as original on original.id = back.reverses
  where original.id is null or original.reverses is not null or back.reversed > original.amount
    or (back.debit_id, back.credit_id, back.asset)
      <> (original.credit_id, original.debit_id, original.asset)
"""

CHECKS = (
    ("every asset adds up to zero", ZERO_SUM),
    ("sequences, balances and times of all accounts", CHAINS),
    ("accounts are what their entries say", ACCOUNTS),
    ("accounts hold what their open holds say", HELD),
    ("no account is beyond its limit", LIMITS),
    ("every transfer is in the asset of its accounts", ASSETS),
    ("every operation did something", OPERATIONS),
    ("every operation has its transfers, every transfer its operation", TRANSFERS),
    ("every operation has its holds, every hold its operations", HOLDS),
    ("holds have captured what their transfers moved", CAPTURES),
    ("nothing is reversed beyond what it was", REVERSALS),
)

# `entries` are both sides of every transfer: what each did to its account. `legs` are what the
# outcomes say was done, whatever stands in them. A check that names neither pays for neither.
FIRST_OF_EACH_KIND = """
  with entries as (
    select debit_id as account, debit_seq as seq, debit_after as after, -amount as delta,
      case when reverses is null and is_spending(kind) then amount else 0 end as spent,
      posted_at, id
    from transfers
    union all
    select credit_id, credit_seq, credit_after, amount,
      case when reverses is null or not is_spending(kind) then 0 else -amount end, posted_at, id
    from transfers
  ), legs as (
    select operation, happened, leg ->> 'transfer_id' as transfer, leg ->> 'hold_id' as hold,
      leg ->> 'asset' as asset, leg ->> 'amount' as amount, leg ->> 'balance' as balance,
      leg ->> 'credited' as credited
    from (
      select id as operation, created_at as happened, jsonb_array_elements(
        case jsonb_typeof(outcome -> 'legs') when 'array' then outcome -> 'legs' else '[]' end
      ) as leg
      from operations
    ) as expanded
  )
  select distinct on (kind) kind, count(*) over (partition by kind) as rows, at, id, detail
  from (:check) as wrong order by kind, at nulls last, id, detail
"""
COUNTS = """
  select (select count(*) from transfers) as transfers, (select count(*) from accounts) as accounts,
    (select count(*) from operations) as operations, (select count(*) from holds) as holds
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """The first row of one kind of damage, and how many rows there are of that kind."""

    kind: str
    rows: int
    detail: str
    at: datetime | None  # when it was posted; for an account, when it last moved
    id: UUID | None


@dataclass(slots=True)
class Report:
    """What was replayed and what is wrong with it, what was posted first before the rest."""

    transfers: int
    accounts: int
    operations: int
    holds: int
    seconds: float = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings


async def verify(
    connection: Any, progress: Callable[[int, int, str], None] = lambda *_: None
) -> Report:
    """Everything, on a connection of the owner; `progress` hears each check before it is made."""
    begun = time.monotonic()
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await connection.execute(TERMS)
        report = Report(**await connection.fetchrow(COUNTS))
        for number, (what, check) in enumerate(CHECKS):
            progress(number, len(CHECKS), what)
            for row in await connection.fetch(FIRST_OF_EACH_KIND.replace(":check", check)):
                report.findings.append(Finding(**row))
    finally:
        await transaction.rollback()
    report.findings.sort(key=order)
    report.seconds = round(time.monotonic() - begun, 1)
    return report


def order(finding: Finding) -> tuple[bool, datetime, bool]:
    """By time; a transfer before the account that it leaves wrong, sums of everything last."""
    at = finding.at or datetime.max
    return (
        finding.at is None,
        at if at.tzinfo else at.replace(tzinfo=UTC),  # asyncpg's infinity has no zone
        finding.kind in ("wrong_account", "wrong_held", "beyond_limit"),
    )

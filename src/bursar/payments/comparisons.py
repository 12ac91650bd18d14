"""The statements that find what does not agree: sets of rows inside PostgreSQL, never in memory.

Each answers rows of (kind, provider, subject, payment_id, ours, our_currency, theirs,
their_currency, happened_at) for the period :since to :until.
"""

from sqlalchemy import text

# A line finds its payment by the provider's names for it, or by ours that the provider keeps.
RESOLVE = text("""
update provider_bookings as line set payment_id = coalesce(
  (select id from payments where id = cast(line.reference ->> 'id' as uuid)
    and provider = line.provider),
  (select id from payments where provider = line.provider
    and stripe_payment_intent_id = line.reference ->> 'stripe_payment_intent_id'),
  (select id from payments where provider = line.provider
    and stripe_charge_id = coalesce(line.reference ->> 'stripe_charge_id', line.object_id)),
  (select id from payments where provider = line.provider
    and paypal_payment_id = coalesce(line.reference ->> 'paypal_payment_id', line.object_id)),
  (select id from payments where provider = line.provider
    and paypal_order_id = line.reference ->> 'paypal_order_id'))
where read_id = :run
""")

# What was read before of the same period is replaced; what another run has begun is let be.
REPLACE = text("""
delete from provider_bookings as line using reconciliations as run
where run.id = line.read_id and run.id <> :run and run.finished_at is not null
  and line.provider = any (cast(:read as varchar[]))
  and line.booked_at >= :since and line.booked_at < :until
""")
FORGET_BROKEN_OFF = text("""
delete from provider_bookings as line using reconciliations as run
where run.id = line.read_id and run.finished_at is null
  and run.started_at < now() - interval '1 day'
""")

# All lines that stand, of complete readings; what belongs together is added up: a refund that came
# back is nothing, a dispute that was won too, and a payment that was taken twice is too much. What
# a provider took back by itself is a refund where it was told as one.
STANDING = """
  standing as (
    select line.*, family,
      case when family <> 'refunded' and payment_id is not null then payment_id::text
        else object_id end as owner
    from provider_bookings as line join reconciliations as run on run.id = read_id
    cross join lateral (select case
      when what in ('captured', 'fee') then 'captured'
      when what like '%refund%' or what = 'disputed' and exists (
        select from refunds where provider_refund_id = object_id) then 'refunded'
      else what end as family) as kind
    where (finished_at is not null or run.id = :run)
      and provider = any (cast(:read as varchar[]))
  ),
  touched as (
    select distinct family, owner from standing where booked_at >= :since and booked_at < :until
  ),
  theirs as (
    select provider, family, min(object_id) as object_id,
      (array_agg(payment_id) filter (where payment_id is not null))[1] as payment_id,
      abs(sum(case when what = 'fee' then 0 else amount end)) as amount,
      sum(case when what = 'fee' then -amount else fee end) as fee,
      min(currency) as currency, max(booked_at) as booked_at
    from standing
    where (family, owner) in (select family, owner from touched)
    group by provider, family, owner
  )
"""

# Beside each of theirs what we have of it; none where it is not here.
BESIDE = """
  beside as (
    select theirs.*, case family
        when 'captured' then nullif(payments.captured, 0)
        when 'refunded' then case when refunds.status in ('pending', 'completed')
          then refunds.amount else refunds.amount * 0 end
        when 'disputed' then contested.amount
      end as ours,
      case family when 'captured' then payments.fee else 0 end as our_fee,
      payments.currency as our_currency,
      coalesce(theirs.payment_id, payments.id) as found_id
    from theirs
    left join refunds on family = 'refunded' and refunds.provider_refund_id = theirs.object_id
    left join lateral (
      select sum(case when disputes.status = 'won' then 0 else disputes.amount end) as amount,
        min(disputes.payment_id::text)::uuid as payment_id
      from disputes
      where family = 'disputed' and (disputes.payment_id = theirs.payment_id
        or disputes.provider_dispute_id = theirs.object_id)
    ) as contested on true
    left join payments
      on payments.id = coalesce(refunds.payment_id, contested.payment_id, theirs.payment_id)
  )
"""

BY_PROVIDER = f"""
with {STANDING}, {BESIDE}
select kind, provider, object_id as subject, found_id as payment_id,
  case kind when 'other_fee' then our_fee else ours end as ours,
  case when ours is null then null else our_currency end as our_currency,
  case kind when 'other_fee' then fee else amount end as theirs,
  currency as their_currency, booked_at as happened_at
from beside cross join lateral (
  select 'missing_here' as kind where ours is null and (amount <> 0 or fee <> 0)
  union all select 'other_currency' where ours is not null and currency <> our_currency
  union all select 'other_amount' where ours <> amount and currency = our_currency
  union all select 'other_fee' where ours is not null and fee <> our_fee
) as difference
"""  # noqa: S608 - its own text

BY_US = f"""
with {STANDING}, ours as (
  select provider, 'captured' as family, coalesce(stripe_charge_id, stripe_payment_intent_id,
      paypal_payment_id, paypal_order_id, id::text) as subject,
    id as payment_id, captured as amount, currency, payment_date as happened_at
  from payments
  where captured > 0 and payment_date >= :since and payment_date < :until
  union all
  select provider, 'refunded', coalesce(provider_refund_id, refunds.id::text), payment_id,
    refunds.amount, currency, settled_at
  from refunds join payments on payments.id = payment_id
  where refunds.status = 'completed' and destination = 'provider'
    and settled_at >= :since and settled_at < :until
  union all
  select provider, 'disputed', provider_dispute_id, payment_id, disputes.amount, currency,
    opened_at
  from disputes join payments on payments.id = payment_id
  where opened_at >= :since and opened_at < :until
)
select 'missing_there', provider, subject, payment_id, amount, currency, null::numeric,
  null::varchar, happened_at
from ours
where provider = any (cast(:read as varchar[])) and not exists (
  select from standing
  where standing.provider = ours.provider and standing.family = ours.family
    and (standing.object_id = ours.subject
      or ours.family <> 'refunded' and standing.payment_id = ours.payment_id))
"""  # noqa: S608 - its own text

# The ledger's own entries in the period, by the key of their fact, beside what the fact says.
BY_LEDGER = """
with entries as (
  select operations.key, operations.created_at, transfers.asset, transfers.amount, scale,
    metadata ->> 'payment_id' as payment_id, metadata ->> 'refund_id' as refund_id,
    metadata ->> 'dispute_id' as dispute_id, credit.purpose as side
  from operations
  cross join lateral jsonb_array_elements(outcome -> 'legs') as leg
  join transfers on transfers.id = (leg ->> 'transfer_id')::uuid
  join assets on assets.code = transfers.asset
  join accounts as credit on credit.id = transfers.credit_id
  where scope = 'payments' and operations.created_at >= :since and operations.created_at < :until
), facts as (
  select key, created_at, asset, min(payment_id)::uuid as payment_id,
    min(refund_id)::uuid as refund_id, min(dispute_id)::uuid as dispute_id,
    sum(amount) filter (where case
      when key like 'refund:%' then side in ('refunds', 'wallet')
      when key like 'dispute:%' then side = 'clearing'
      else true end) / power(10::numeric, min(scale)) as amount
  from entries group by key, created_at, asset
), beside as (
  select facts.*, payments.id as found_id, payments.provider, payments.currency, case
      when key like '%\\:captured' then nullif(payments.captured, 0)
      when key like '%\\:fee' then nullif(payments.fee, 0)
      when key like 'refund:%' then refunds.amount
      when key like 'dispute:%' then disputes.amount
    end as said,
    key like '%\\:captured' or key like '%\\:fee' or key like 'dispute:%\\:opened'
      or key ~ '^refund:[^:]+$' as is_whole
  from facts
  left join payments on payments.id = facts.payment_id
  left join refunds on refunds.id = facts.refund_id
  left join disputes on disputes.id = facts.dispute_id
)
select case when said is null then 'ledger_without_payment' else 'ledger_differs' end,
  coalesce(provider, 'ledger'), key, found_id, said,
  case when said is null then null else currency end, amount, asset, created_at
from beside
where said is null or currency <> asset or (is_whole and amount is distinct from said)
"""

# The key of what has come is the provider's name for it, whichever of them it was told by.
TO_LEDGER = """
with ours as (
  select provider, id as payment_id, captured as amount, currency, payment_date as happened_at,
    id::text as subject, '\\:captured' as what, array[
      provider || ':' || stripe_payment_intent_id, provider || ':' || stripe_charge_id,
      provider || ':' || paypal_payment_id, provider || ':' || paypal_order_id,
      provider || ':' || id, 'demo:demo_' || replace(id::text, '-', '')] as keys
  from payments
  where captured > 0 and payment_date >= :since and payment_date < :until
), all_of as (
  select provider, payment_id, amount, currency, happened_at, subject,
    array(select key || what from unnest(keys) as key) as keys
  from ours
  union all
  select ours.provider, payment_id, fee, ours.currency, happened_at, subject || '\\:fee',
    array(select key || '\\:fee' from unnest(keys) as key)
  from ours join payments on payments.id = payment_id where fee > 0
  union all
  select provider, payment_id, refunds.amount, currency, settled_at, 'refund:' || refunds.id,
    array['refund:' || refunds.id]
  from refunds join payments on payments.id = payment_id
  where refunds.status in ('completed', 'returned')
    and settled_at >= :since and settled_at < :until
  union all
  select provider, payment_id, disputes.amount, currency, opened_at,
    'dispute:' || provider_dispute_id, array['dispute:' || provider_dispute_id || '\\:opened']
  from disputes join payments on payments.id = payment_id
  where opened_at >= :since and opened_at < :until
)
select 'payment_without_ledger', provider, subject, payment_id, amount, currency, null::numeric,
  null::varchar, happened_at
from all_of
where not exists (
  select from operations where operation_mark(scope, key) = any (array(
    select operation_mark('payments', key) from unnest(keys) as key))
)
"""

# One row of each difference, however often it is found. One that staff have closed stays closed as
# long as it is the same.
KEEP = """
insert into reconciliation_differences as known (kind, provider, subject, payment_id, ours,
  our_currency, theirs, their_currency, happened_at, seen_by)
select found.*, cast(:run as uuid) from ({found}) as found
on conflict (kind, provider, subject) do update set
  payment_id = excluded.payment_id, ours = excluded.ours, our_currency = excluded.our_currency,
  theirs = excluded.theirs, their_currency = excluded.their_currency,
  happened_at = excluded.happened_at, last_seen_at = now(), seen_by = excluded.seen_by,
  (status, note, closed_by, settled_at) = (
    select same.status, same.note, same.closed_by, same.settled_at
    from (values (known.status, known.note, known.closed_by, known.settled_at))
      as same (status, note, closed_by, settled_at)
    where known.status = 'closed'
      and (known.ours, known.theirs) is not distinct from (excluded.ours, excluded.theirs)
    union all select 'open', null, null, null
    limit 1)
"""
COMPARISONS = tuple(
    text(KEEP.format(found=found)) for found in (BY_PROVIDER, BY_US, BY_LEDGER, TO_LEDGER)
)

# Of what was looked at again and not found: it agrees by now.
SETTLE = text("""
update reconciliation_differences set status = 'gone', settled_at = now()
where status = 'open' and seen_by <> :run and happened_at >= :since and happened_at < :until
  and (provider = any (cast(:read as varchar[])) or kind in
    ('ledger_without_payment', 'payment_without_ledger', 'ledger_differs'))
""")
OPEN_IN_PERIOD = text("""
select count(*) from reconciliation_differences
where status = 'open' and happened_at >= :since and happened_at < :until
""")

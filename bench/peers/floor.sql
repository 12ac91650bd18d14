-- Charges as the ledger keeps them: its own tables, indexes, constraints, foreign keys and safety
-- triggers, and none of what is done before rows are written or after: no leg is read, no key looked
-- up, nothing decided, no audit. For bench/floor.py, in a database that bench/books.py has filled.

create schema floor;
grant usage on schema floor to worker_user;

-- The crowd by number, and the hot wallet as -1.
create table floor.payers (number integer primary key, id uuid not null);
insert into floor.payers
select case when email like 'hot-%' then -1 else row_number() over (order by email) - 1 end, accounts.id
from users join accounts on owner_id = users.id and asset = 'USD';
analyze floor.payers;

create function floor.outcome() returns jsonb
language sql immutable
return '{"legs": [{"held": 0, "asset": "USD", "amount": 1000, "balance": 9999999999000, "hold_id": null,
  "credited": 123456789, "transfer_id": "01a1fc71-0000-7000-8000-000000000001"}],
  "posted_at": "2026-11-28T08:00:00.123456+00:00",
  "operation_id": "01a1fc71-0000-7000-8000-000000000001"}'::jsonb;

-- `batch` charges of `many` neighbours from this one on, each as often as the others.
create function floor.write(first integer, many integer, company integer, batch integer)
returns void
language plpgsql set plan_cache_mode = force_generic_plan set enable_mergejoin = off
set enable_seqscan = off set jit = off as $$
declare
  turns constant integer := batch / many;
  pattern constant text := uuid7()::text;  -- a random number of its own would be dear for each
  moment constant timestamptz := clock_timestamp();
begin
  with wallet as (
    update accounts set posted = posted - 1000 * turns, spent = spent + 1000 * turns,
      seq = seq + turns, moved_at = moment
    where id = any (array(
      select id from floor.payers where number between first and first + many - 1))
    returning id, seq - turns as seq, posted + 1000 * turns as posted
  ), shard as (
    update accounts set posted = posted + 1000 * batch, seq = seq + batch, moved_at = moment
    where purpose = 'revenue' and asset = 'USD' and shard = company
    returning id, seq - batch as seq, posted - 1000 * batch as posted
  ), charge as materialized (
    select (left(pattern, 24) || lpad(to_hex(n), 4, '0') || right(pattern, 8))::uuid as id,
      n + 1 as nth, turn, wallet.id as wallet, seq, posted
    from (select row_number() over () - 1 as place, wallet.* from wallet) as wallet
    cross join generate_series(1, turns) as turn
    cross join lateral (select (place * turns + turn - 1)::integer as n) as numbered
  ), asked as (
    insert into operations (id, scope, key, fingerprint, outcome, actor, created_at)
    select id, 'staff:00000000-0000-7000-8000-000000000001', md5(id::text),
      decode(repeat('5a', 32), 'hex'), floor.outcome(),
      'staff:00000000-0000-7000-8000-000000000001', moment
    from charge
  )
  insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
    credit_id, credit_seq, credit_after, kind, category, posted_at)
  select charge.id, charge.id, 'USD', 1000, wallet, charge.seq + turn, charge.posted - 1000 * turn,
    shard.id, shard.seq + nth, shard.posted + 1000 * nth, 'charge', 'models', moment
  from charge cross join shard;
end $$;

-- In place of post(), for whoever has this schema in the search path before the other: as many charges
-- as there are requests, of one wallet or of as many neighbours, and for each an answer that says
-- nothing of it. Lanes of a till begin at different digits (wallets/till.py), and each digit has its
-- sixteenth of the crowd here.
create function floor.post(requests jsonb) returns jsonb
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  batch constant integer := jsonb_array_length(requests);
  payer constant text := requests -> 0 -> 'legs' -> 0 ->> 'debit';
  digit constant integer := strpos('0123456789abcdef', right(payer, 1)) - 1;
begin
  if batch > 1 and payer = requests -> -1 -> 'legs' -> 0 ->> 'debit' then
    perform floor.write(-1, 1, digit, batch);
  else
    perform floor.write(digit * 625 + (random() * (625 - batch))::integer, batch, digit, batch);
  end if;
  return to_jsonb(array_fill(floor.outcome(), array[batch]));
end $$;

-- The ledger's rows with every index and constraint, and none of what is asked before they are written
-- or after: no key is looked up, nothing is compared, no trigger fires, no audit. For bench/floor.py.

create schema floor;

create table floor.accounts (like accounts including all, number integer unique);
create table floor.operations (like operations including all);
create table floor.transfers (like transfers including all);
alter table floor.transfers
  add foreign key (operation_id) references floor.operations (id),
  add foreign key (debit_id, asset) references floor.accounts (id, asset),
  add foreign key (credit_id, asset) references floor.accounts (id, asset);

insert into floor.accounts (asset, purpose, shard, overdraft, number)
select 'USD', 'wallet', 0, 0, number from generate_series(0, 9999) as number
union all
select 'USD', 'revenue', shard, null, -1 - shard from generate_series(0, 15) as shard;
update floor.accounts set posted = 10000000000000 where number >= 0;
analyze floor.accounts;

-- `batch` charges of `wallets` neighbours, one after the other, from the wallet with this number on.
create function floor.write(first integer, wallets integer, company integer, batch integer)
returns void
language plpgsql set plan_cache_mode = force_generic_plan as $$
begin
  with wallet as (
    update floor.accounts
    set posted = posted - 1000 * batch / wallets, spent = spent + 1000 * batch / wallets,
      seq = seq + batch / wallets, moved_at = now()
    where number between first and first + wallets - 1
    returning id, number - first as place, seq - batch / wallets as seq,
      posted + 1000 * batch / wallets as posted
  ), shard as (
    update floor.accounts
    set posted = posted + 1000 * batch, seq = seq + batch, moved_at = now()
    where number = company
    returning id, seq - batch as seq, posted - 1000 * batch as posted
  ), charge as materialized (
    select n, n % wallets as place, n / wallets + 1 as turn, uuid7() as id
    from generate_series(0, batch - 1) as n
  ), asked as (
    insert into floor.operations (id, scope, key, fingerprint, outcome, actor, created_at)
    select id, 'staff:00000000-0000-7000-8000-000000000001', gen_random_uuid()::text,
      decode(repeat('5a', 32), 'hex'),
      '{"legs": [{"held": 0, "asset": "USD", "amount": 1000, "balance": 9999999999000, "hold_id":
        null, "credited": 123456789, "transfer_id": "01a1fc71-0000-7000-8000-000000000001"}],
        "posted_at": "2026-11-28T08:00:00.123456+00:00",
        "operation_id": "01a1fc71-0000-7000-8000-000000000001"}'::jsonb,
      'staff:00000000-0000-7000-8000-000000000001', now()
    from charge
  )
  insert into floor.transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
    credit_id, credit_seq, credit_after, kind, category, posted_at)
  select charge.id, charge.id, 'USD', 1000, wallet.id, wallet.seq + turn,
    wallet.posted - 1000 * turn, shard.id, shard.seq + n + 1, shard.posted + 1000 * (n + 1),
    'charge', 'models', now()
  from charge join wallet on wallet.place = charge.place cross join shard;
end $$;

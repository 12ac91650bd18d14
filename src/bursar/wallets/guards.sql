-- What the database refuses by itself, whoever asks, the superuser included: a row of the ledger that
-- is edited, deleted or made up, a gap in a sequence, a balance that its newest transfer does not
-- give. Everything is looked at when a statement ends, so a posting is one statement. The checks ask
-- for all that is wrong, not for the first: with a limit the planner takes nested loops, which cost
-- the square of a batch.

-- What goes back the way it had come, or is contested, leaves a wallet and is not spent. What brings
-- it back has the same kind.
create or replace function is_spending(kind text) returns boolean
language sql immutable parallel safe as $$
  select kind not in ('refund', 'dispute')
$$;

-- Both sides of transfers as entries of accounts. `spent` is what went out, less what came back.
-- No search_path of their own: only so are they planned as a part of the statement that asks.
create or replace function entries_between(account uuid, after_seq bigint, until_seq bigint)
returns table (seq bigint, delta bigint, spent bigint, balance bigint, posted_at timestamptz)
language sql stable as $$
  select debit_seq, -amount, case when reverses is null and is_spending(kind) then amount else 0 end,
    debit_after, posted_at
  from transfers where debit_id = account and debit_seq > after_seq and debit_seq <= until_seq
  union all
  select credit_seq, amount, case when reverses is null or not is_spending(kind) then 0 else -amount end,
    credit_after, posted_at
  from transfers where credit_id = account and credit_seq > after_seq and credit_seq <= until_seq
$$;

create or replace function entry_at(account uuid, at_seq bigint)
returns table (balance bigint, posted_at timestamptz)
language sql stable as $$
  select debit_after, posted_at from transfers where debit_id = account and debit_seq = at_seq
  union all
  select credit_after, posted_at from transfers where credit_id = account and credit_seq = at_seq
$$;

-- New rows go on exactly where the chain of either account stood, and the account says the same.
create or replace function check_new_transfers() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  wrong uuid; reversals bigint; captures bigint;
begin
  with entries as (
    select debit_id as account, debit_seq as seq, debit_after as after, -amount as delta, posted_at
    from added
    union all
    select credit_id, credit_seq, credit_after, amount, posted_at from added
  ), chain as (
    select *, lag(seq) over side as seq_before, lag(after) over side as balance_before,
      lag(posted_at) over side as posted_before
    from entries window side as (partition by account order by seq)
  ), links as (  -- what is new of each account: it hangs together, and goes on from one entry
    select account, min(seq) as first, max(seq) as last, count(*) as entries, sum(delta) as moved,
      min(after::numeric - delta) filter (where seq_before is null) as began_with,
      min(posted_at) filter (where seq_before is null) as began,
      bool_and(seq_before is null or (
        seq = seq_before + 1 and after = balance_before + delta and posted_at >= posted_before
      )) as whole
    from chain group by account
  )
  select (array_agg(account))[1] into wrong
  from links cross join lateral (
    select count(*) as entries, min(balance) filter (where seq < first) as balance,
      min(posted_at) filter (where seq < first) as posted_at
    from entries_between(account, first - 2, last)
  ) as there
  where not whole
    -- a number is taken once, whichever side it stands on
    or there.entries <> links.entries + (first <> 1)::integer
    or (first <> 1 and (there.balance = began_with and there.posted_at <= began) is not true)
    or (first = 1 and began_with <> 0)
    or (  -- one row, looked up by its id; `exists` would hash the whole table
      select seq = last and posted = began_with + moved from accounts where id = account
    ) is not true;
  if wrong is not null then
    raise exception 'transfers do not continue the chain of account %', wrong
      using errcode = 'integrity_constraint_violation';
  end if;
  select count(reverses), count(hold_id) into reversals, captures from added;
  if reversals = 0 and captures = 0 then
    return null;
  end if;
  select (array_agg(added.reverses))[1] into wrong
  from (select distinct reverses from added where reverses is not null) as added
  join transfers as original on original.id = added.reverses
  where original.amount < (select sum(amount) from transfers where reverses = original.id)
    or exists (
      select from transfers as back
      where back.reverses = original.id
        and (back.debit_id, back.credit_id) <> (original.credit_id, original.debit_id)
    )
    or original.reverses is not null;
  if wrong is not null then
    raise exception 'more of transfer % is reversed than it moved, or another way', wrong
      using errcode = 'integrity_constraint_violation';
  end if;
  select (array_agg(added.hold_id))[1] into wrong
  from (select distinct hold_id from added where hold_id is not null) as added
  join holds on holds.id = added.hold_id
  where holds.captured <> (select sum(amount) from transfers where hold_id = holds.id);
  if wrong is not null then
    raise exception 'hold % has not captured what its transfers moved', wrong
      using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $$;
create or replace trigger check_new_transfers after insert on transfers
  referencing new table as added
  for each statement execute function check_new_transfers();

-- What an account says has changed is what its new entries add up to, neither more nor less.
create or replace function check_changed_accounts() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  wrong uuid;
begin
  select (array_agg(here.id))[1] into wrong
  from changed as here left join former as was on was.id = here.id
  cross join lateral (
    select count(*) as entries, coalesce(sum(delta), 0) as moved, coalesce(sum(spent), 0) as spent,
      min(posted_at) filter (where seq = here.seq) as moved_at
    from entries_between(here.id, was.seq, here.seq)
    where here.seq <> was.seq
  ) as happened
  where was.id is null
    or (was.asset, was.purpose, was.shard, was.created_at)
      is distinct from (here.asset, here.purpose, here.shard, here.created_at)
    or (here.owner_id is distinct from was.owner_id
      and (here.owner_id is not null or here.posted <> 0 or here.held <> 0))
    or here.seq - was.seq <> happened.entries
    or here.posted - was.posted <> happened.moved
    or here.spent - was.spent <> happened.spent
    or (here.held <> was.held and here.held <> open_holds(here.id))
    or here.moved_at is distinct from case when here.seq = was.seq then was.moved_at
      else happened.moved_at end;
  if wrong is not null then
    raise exception 'account % would not be what its transfers and holds say', wrong
      using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $$;
create or replace function open_holds(account uuid) returns bigint
language sql stable
return (
  select coalesce(sum(amount - captured), 0)::bigint
  from holds where account_id = account and state = 'open'
);
create or replace trigger check_changed_accounts after update on accounts
  referencing old table as former new table as changed
  for each statement execute function check_changed_accounts();

create or replace function check_new_account() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if (new.posted, new.held, new.spent, new.seq, new.moved_at) is distinct from (0, 0, 0, 0, null) then
    raise exception 'an account begins empty' using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
create or replace trigger check_new_account before insert on accounts
  for each row execute function check_new_account();
create or replace trigger refuse_removal before delete on accounts
  for each row execute function refuse_change();
create or replace trigger refuse_truncate before truncate on accounts
  for each statement execute function refuse_change();

-- A hold holds what its account says is held, and has captured what its transfers moved.
create or replace function check_holds() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  wrong uuid;
begin
  select (array_agg(account_id))[1] into wrong
  from (select distinct account_id from changed) as touched
  where (select held = open_holds(account_id) from accounts where id = account_id) is not true;
  if wrong is not null then
    raise exception 'the holds of account % are not what it says is held', wrong
      using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $$;
create or replace trigger check_new_holds after insert on holds
  referencing new table as changed
  for each statement execute function check_holds();
create or replace trigger check_changed_holds after update on holds
  referencing new table as changed
  for each statement execute function check_holds();

create or replace function check_captures() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  wrong uuid;
begin
  select (array_agg(here.id))[1] into wrong
  from changed as here left join former as was on was.id = here.id
  where was.id is null or was.state <> 'open'
    or to_jsonb(was) - array['captured', 'state', 'closed_at', 'closed_by']
      <> to_jsonb(here) - array['captured', 'state', 'closed_at', 'closed_by']
    or here.captured <> (
      select coalesce(sum(amount), 0) from transfers
      where hold_id = here.id and debit_id = here.account_id and asset = here.asset
    );
  if wrong is not null then
    raise exception 'hold % cannot change so', wrong
      using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $$;
create or replace trigger check_captures after update on holds
  referencing old table as former new table as changed
  for each statement execute function check_captures();
create or replace function check_new_hold() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if (new.captured, new.state) <> (0, 'open') then
    raise exception 'a hold begins open' using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
create or replace trigger check_new_hold before insert on holds
  for each row execute function check_new_hold();
create or replace trigger refuse_removal before delete on holds
  for each row execute function refuse_change();
create or replace trigger refuse_truncate before truncate on holds
  for each statement execute function refuse_change();

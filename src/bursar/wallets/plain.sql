-- The short way of post() for what is most of all it is asked: single transfers that are all new and
-- all covered, where no account stands on both sides. Then their order decides nothing, and all of them
-- are decided and written by one statement. It writes everything or nothing, and is null where any
-- request is not of that kind; post() then decides one after the other.
--
-- Only post() calls it, with the accounts locked. Its search_path is that of post(): changing it
-- costs as much as a small part of the work.

create or replace function post_plain(legs ledger_leg[], standing accounts[]) returns jsonb[]
language plpgsql as $$
#variable_conflict use_column
declare
  most constant numeric := 9223372036854775807;
  -- One random number for all, and a number within it: one of its own would cost each a call of the
  -- system. Its end stays random, because lanes and shards are chosen by the last digit of an id.
  pattern constant text := uuid7()::text;
  head constant text := left(pattern, 24);
  tail constant text := right(pattern, 8);
  moment constant timestamptz :=
    greatest(clock_timestamp(), (select max(moved_at) from unnest(standing)));
  posted_at constant text := to_json(moment);
  outcomes jsonb[];
begin
  with asked as (
    select op, scope, key, fingerprint, actor, request_id, debit_id, credit_id, asset, amount, kind,
      category, metadata, effective_at,
      row_number() over debits as debit_step, sum(amount) over debits as debit_moved,
      row_number() over credits as credit_step, sum(amount) over credits as credit_moved
    from unnest(legs)
    window debits as (partition by debit_id order by op rows unbounded preceding),
      credits as (partition by credit_id order by op rows unbounded preceding)
  ), placed as (
    select asked.*, (head || lpad(to_hex(op), 4, '0') || tail)::uuid as id,
      debtor.held, debtor.seq + debit_step as debit_seq, debtor.posted - debit_moved as debit_after,
      creditor.seq + credit_step as credit_seq, creditor.posted + credit_moved as credit_after,
      debtor.posted::numeric - debtor.held + debtor.overdraft >= debit_moved as covered,
      debtor.asset = asked.asset and creditor.asset = asked.asset
        and debtor.status = 'open' and creditor.status <> 'closed'
        and debtor.posted - debit_moved >= - most and debtor.spent + debit_moved <= most
        and creditor.posted + credit_moved <= most
        and (
          select id from operations
          where operation_mark(scope, key) = operation_mark(asked.scope, asked.key)
        ) is null
        as plain
    from asked
    join unnest(standing) as debtor on debtor.id = debit_id
    join unnest(standing) as creditor on creditor.id = credit_id
    offset 0  -- worked out once, as in legs_of()
  ), decided as materialized (
    select placed.*, (
        '{"legs": [{"held": ' || held || ', "asset": "' || asset || '", "amount": ' || amount
        || ', "balance": ' || debit_after || ', "hold_id": null, "credited": ' || credit_after
        || ', "transfer_id": "' || id || '"}], "posted_at": ' || posted_at
        || ', "operation_id": "' || id || '"}'
      )::jsonb as outcome
    from placed
  ), verdict as materialized (
    select bool_and(plain and covered is not false) and count(*) = cardinality(legs)
      and count(distinct key) = count(*)
      and count(*) filter (where debit_step = 1) + count(*) filter (where credit_step = 1)
        = cardinality(standing) as good
    from decided
  ), done as not materialized (
    select * from decided where (select good from verdict)
  ), new_operations as (
    insert into operations (id, scope, key, fingerprint, outcome, actor, request_id, created_at)
    select id, scope, key, fingerprint, outcome, coalesce(actor, session_user), request_id, moment
    from done order by key, scope
  ), changed_accounts as (
    update accounts set posted = accounts.posted + now.gained - now.given,
      spent = accounts.spent + now.spent, seq = accounts.seq + now.entries, moved_at = moment
    from (
      select debit_id as id, count(*) as entries, 0::bigint as gained, sum(amount)::bigint as given,
        coalesce(sum(amount) filter (where is_spending(kind)), 0)::bigint as spent
      from done group by debit_id
      union all
      select credit_id, count(*), sum(amount)::bigint, 0, 0 from done group by credit_id
    ) as now
    where accounts.id = now.id  -- looked up, not read through
      and accounts.id = any (array(select id from unnest(standing)))
  ), new_transfers as (
    insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
      credit_id, credit_seq, credit_after, kind, category, posted_at, effective_at, metadata)
    select id, id, asset, amount, debit_id, debit_seq, debit_after::bigint,
      credit_id, credit_seq, credit_after::bigint, kind, category, moment, effective_at, metadata
    from done
  )
  select array_agg(outcome order by op) into outcomes from done;
  return outcomes;
end $$;
revoke execute on function post_plain(ledger_leg[], accounts[]) from public;

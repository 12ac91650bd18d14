-- The long way of post(): request after request, each seeing what the ones before it left, in memory;
-- then everything is written by one statement. It knows every verb and every refusal. Wallets that
-- nobody has opened stand there without `created_at`; those that something was moved in are opened.
--
-- Longer than HOUSE lets a function be: its state are arrays, which PL/pgSQL would copy at each call of
-- a part. Only post() calls it, with the accounts locked, and under the settings of post().

create or replace function post_in_turn(legs ledger_leg[], standing accounts[]) returns jsonb[]
language plpgsql as $$
#variable_conflict use_column
declare
  most constant bigint := 9223372036854775807;
  moment timestamptz;
  -- accounts, by their place in account_ids
  account_ids uuid[];
  a_posted bigint[]; a_held bigint[]; a_spent bigint[]; a_seq bigint[]; a_overdraft bigint[];
  a_status text[]; a_asset text[]; a_seq_before bigint[]; a_held_before bigint[];
  a_sent bigint[] := '{}';
  -- holds, and transfers that are reversed, by their place among those that are named
  h_hold uuid[]; h_captured bigint[]; h_closed_as text[]; h_closer uuid[];
  r_transfer uuid[]; r_reversed bigint[];
  -- what is to be written: transfers, new holds, operations
  t_count integer := 0; t_leg integer[] := '{}'; t_op uuid[] := '{}'; t_id uuid[] := '{}';
  t_amount bigint[] := '{}'; t_debit_seq bigint[] := '{}'; t_credit_seq bigint[] := '{}';
  t_debit_after bigint[] := '{}'; t_credit_after bigint[] := '{}';
  n_count integer := 0; n_leg integer[] := '{}'; n_op uuid[] := '{}'; n_id uuid[] := '{}';
  o_count integer := 0; o_op integer[] := '{}'; o_id uuid[] := '{}'; o_leg integer[] := '{}';
  outcomes jsonb[] := '{}';
  done_by integer[] := '{}';
  -- of the request at hand
  leg record; op_id uuid; outcome jsonb; problem text; about jsonb; skip boolean;
  d integer; c integer; available numeric; amount bigint; part bigint; state text;
  saved record;
begin
  select array_agg(id order by id), array_agg(a.posted order by id), array_agg(a.held order by id),
    array_agg(a.spent order by id), array_agg(a.seq order by id),
    array_agg(a.overdraft order by id), array_agg(a.status order by id),
    array_agg(a.asset order by id), greatest(clock_timestamp(), max(a.moved_at))
  into account_ids, a_posted, a_held, a_spent, a_seq, a_overdraft, a_status, a_asset, moment
  from unnest(standing) as a;
  h_hold := array(select distinct hold_id from unnest(legs) where hold_id is not null);
  h_captured := array_fill(0::bigint, array[cardinality(h_hold)]);
  h_closed_as := array_fill(null::text, array[cardinality(h_hold)]);
  h_closer := array_fill(null::uuid, array[cardinality(h_hold)]);
  r_transfer := array(select distinct reverses from unnest(legs) where reverses is not null);
  r_reversed := array_fill(0::bigint, array[cardinality(r_transfer)]);
  a_seq_before := a_seq;
  a_held_before := a_held;

  for leg in
    with places as (
      select id, place::integer from unnest(account_ids) with ordinality as p (id, place)
    ), limited as (  -- added up once for each wallet, however many transfers it asks for
      select debit_id, coalesce(sum(earlier.amount), 0) as sent
      from (select distinct debit_id from unnest(legs) where at_most_today is not null) as sender
      left join lateral (
        select amount from transfers
        where transfers.debit_id = sender.debit_id and kind = 'transfer'
          and posted_at >= date_trunc('day', moment, 'UTC')
      ) as earlier on true
      group by debit_id
    )
    select l.*, debit.place as d, credit.place as c, same.first_op,
      before.fingerprint as known, before.outcome as known_outcome,
      holds.amount - holds.captured as hold_left, holds.state as hold_state,
      holds.expires_at <= moment as overdue,
      array_position(h_hold, l.hold_id) as h,
      original.amount - (
        select coalesce(sum(back.amount), 0)::bigint from transfers as back
        where back.reverses = l.reverses
      ) as reversible, original.reverses is not null as is_reversal,
      array_position(r_transfer, l.reverses) as r,
      limited.sent as sent_today
    from unnest(legs) with ordinality as l (
      op, leg, last, scope, key, actor, request_id, fingerprint, verb, debit_id, credit_id, asset,
      amount, kind, category, metadata, effective_at, hold_id, reverses, seconds, final,
      at_most_today, problem, n)
    join (
      select scope, key, min(op) as first_op from unnest(legs) group by scope, key
    ) as same on same.scope = l.scope and same.key = l.key
    left join places as debit on debit.id = l.debit_id
    left join places as credit on credit.id = l.credit_id
    left join operations as before
      on operation_mark(before.scope, before.key) = operation_mark(l.scope, l.key)
    left join holds on holds.id = l.hold_id
    left join transfers as original on original.id = l.reverses
    left join limited on limited.debit_id = l.debit_id
    order by l.op, l.leg
  loop
    if leg.leg = 1 then
      op_id := uuid7();
      outcome := '[]';
      skip := true;
      if leg.known is not null then
        outcomes[leg.op] := answered_before(leg.known, leg.fingerprint, leg.known_outcome);
      elsif done_by[leg.first_op] is not null then
        outcomes[leg.op] := answered_before(
          legs[o_leg[done_by[leg.first_op]]].fingerprint, leg.fingerprint,
          outcomes[o_op[done_by[leg.first_op]]]);
      else
        skip := false;
        if not leg.last then
          select a_posted, a_held, a_spent, a_seq, a_sent, h_captured, h_closed_as, h_closer,
            r_reversed, t_count, n_count into saved;
        end if;
      end if;
    end if;
    continue when skip;

    problem := nullif(leg.problem, 'wallet.unopened');
    about := null;
    d := leg.d;
    c := leg.c;
    amount := leg.amount;
    if problem is not null then
      null;
    elsif d = c then
      problem := 'wallet.same_account';
    elsif a_asset[d] <> leg.asset or (c is not null and a_asset[c] <> leg.asset) then
      problem := 'wallet.asset_mismatch';
    elsif a_status[d] = 'closed' or (c is not null and a_status[c] = 'closed') then
      problem := 'wallet.account_closed';
    elsif a_status[d] = 'frozen' and leg.verb not in ('void', 'expire') then
      problem := 'wallet.account_frozen';
    elsif leg.hold_id is not null then
      part := leg.hold_left - h_captured[leg.h];
      amount := coalesce(amount, part);
      state := coalesce(h_closed_as[leg.h], leg.hold_state);
      if leg.verb = 'capture' and leg.overdue and state in ('open', 'expired') then
        problem := 'wallet.hold_expired';  -- whether the job has been there already or not
      elsif state <> 'open' then
        problem := 'wallet.hold_closed';
      elsif leg.verb = 'expire' and not leg.overdue then
        problem := 'wallet.hold_open';
      elsif leg.verb = 'capture' and amount > part then
        problem := 'wallet.capture_too_large';
        about := jsonb_build_object('left', part);
      end if;
    elsif leg.verb = 'reverse' then
      part := leg.reversible - r_reversed[leg.r];
      amount := coalesce(amount, part);
      if leg.is_reversal or part = 0 or amount > part then
        problem := 'wallet.reversal_too_large';
        about := jsonb_build_object('left', case when leg.is_reversal then 0 else part end);
      end if;
    elsif leg.sent_today + coalesce(a_sent[d], 0) + amount > leg.at_most_today then
      problem := 'wallet.transfer_limit';
      about := jsonb_build_object(
        'left', greatest(0, leg.at_most_today - leg.sent_today - coalesce(a_sent[d], 0)));
    end if;
    if problem is null and leg.verb in ('transfer', 'hold', 'reverse')
      and a_overdraft[d] is not null
    then
      available := a_posted[d]::numeric - a_held[d];
      if available + a_overdraft[d] < amount then
        problem := 'wallet.insufficient_funds';
        about := jsonb_build_object(
          'balance', a_posted[d], 'available', available, 'needed', amount);
      end if;
    end if;
    if problem is null and (
      (c is not null and (a_posted[c] > most - amount or a_posted[d] < amount - most))
      or (leg.verb in ('transfer', 'capture') and a_spent[d] > most - amount)
      or (leg.verb = 'hold' and a_held[d] > most - amount)
    ) then
      problem := 'wallet.balance_too_large';
    end if;
    if problem is not null then
      outcomes[leg.op] := jsonb_build_object(
        'error', problem, 'leg', leg.leg, 'asset', leg.asset,
        'scale', (select coalesce(min(scale), 0) from assets where code = leg.asset)
      ) || coalesce(about, '{}');
      skip := true;
      if leg.leg > 1 then
        a_posted := saved.a_posted; a_held := saved.a_held; a_spent := saved.a_spent; a_seq := saved.a_seq;
        a_sent := saved.a_sent; h_captured := saved.h_captured; h_closed_as := saved.h_closed_as;
        h_closer := saved.h_closer; r_reversed := saved.r_reversed;
        t_count := saved.t_count; n_count := saved.n_count;
      end if;
      continue;
    end if;

    if leg.verb in ('transfer', 'capture', 'reverse') then
      t_count := t_count + 1;
      t_leg[t_count] := leg.n;
      t_op[t_count] := op_id;
      t_id[t_count] := case when leg.leg = 1 then op_id else uuid7() end;
      t_amount[t_count] := amount;
      a_posted[d] := a_posted[d] - amount;
      a_posted[c] := a_posted[c] + amount;
      a_seq[d] := a_seq[d] + 1;
      a_seq[c] := a_seq[c] + 1;
      t_debit_seq[t_count] := a_seq[d];
      t_credit_seq[t_count] := a_seq[c];
      t_debit_after[t_count] := a_posted[d];
      t_credit_after[t_count] := a_posted[c];
      if leg.verb = 'reverse' then
        r_reversed[leg.r] := r_reversed[leg.r] + amount;
      end if;
      if is_spending(leg.kind) and leg.verb = 'reverse' then
        a_spent[c] := a_spent[c] - amount;
      elsif is_spending(leg.kind) then
        a_spent[d] := a_spent[d] + amount;
      end if;
      if leg.kind = 'transfer' then
        a_sent[d] := coalesce(a_sent[d], 0) + amount;
      end if;
    end if;
    if leg.verb = 'hold' then
      n_count := n_count + 1;
      n_leg[n_count] := leg.n;
      n_op[n_count] := op_id;
      n_id[n_count] := case when leg.leg = 1 then op_id else uuid7() end;
      a_held[d] := a_held[d] + amount;
    elsif leg.hold_id is not null then
      if leg.verb = 'capture' then
        h_captured[leg.h] := h_captured[leg.h] + amount;
        a_held[d] := a_held[d] - amount;
        part := part - amount;
      end if;
      if leg.verb <> 'capture' or leg.final or part = 0 then
        h_closed_as[leg.h] := case leg.verb
          when 'capture' then 'captured' when 'void' then 'voided' else 'expired' end;
        h_closer[leg.h] := op_id;
        a_held[d] := a_held[d] - part;
      end if;
    end if;
    outcome := outcome || jsonb_build_object(
      'transfer_id', case when leg.verb in ('transfer', 'capture', 'reverse') then t_id[t_count] end,
      'hold_id', case when leg.verb = 'hold' then n_id[n_count] else leg.hold_id end,
      'asset', leg.asset, 'amount', amount, 'balance', a_posted[d], 'held', a_held[d],
      'credited', a_posted[c]);
    if leg.last then
      o_count := o_count + 1;
      o_op[o_count] := leg.op;
      o_id[o_count] := op_id;
      o_leg[o_count] := leg.n;
      outcomes[leg.op] := jsonb_build_object(
        'operation_id', op_id, 'posted_at', to_jsonb(moment), 'legs', outcome);
      done_by[leg.first_op] := o_count;
    end if;
  end loop;

  insert into accounts (id, owner_id, asset)
  select before.id, before.owner_id, before.asset
  from unnest(standing) as before
  join unnest(account_ids, a_seq) as now (id, seq) on now.id = before.id
  where before.created_at is null and now.seq > 0
  order by before.id;
  if o_count > 0 then
    with asked as materialized (
      select * from unnest(legs) with ordinality as leg (
        op, leg, last, scope, key, actor, request_id, fingerprint, verb, debit_id, credit_id, asset,
        amount, kind, category, metadata, effective_at, hold_id, reverses, seconds, final,
        at_most_today, problem, n)
    ), new_operations as (
      insert into operations (id, scope, key, fingerprint, outcome, actor, request_id, created_at)
      select o.id, asked.scope, asked.key, asked.fingerprint, answered.outcome,
        coalesce(asked.actor, session_user), asked.request_id, moment
      from unnest(o_id, o_op, o_leg) as o (id, op, leg)
      join asked on asked.n = o.leg
      join unnest(outcomes) with ordinality as answered (outcome, op) on answered.op = o.op
      order by asked.key, asked.scope
    ), new_holds as (
      insert into holds (id, operation_id, account_id, asset, amount, kind, category, metadata,
        created_at, expires_at)
      select h.id, h.op, l.debit_id, l.asset, l.amount, l.kind, l.category,
        l.metadata, moment, moment + make_interval(secs => coalesce(l.seconds, 3600))
      from unnest(n_id[:n_count], n_op[:n_count], n_leg[:n_count]) as h (id, op, leg)
      join asked as l on l.n = h.leg
    ), changed_holds as (
      update holds set captured = holds.captured + change.more,
        state = coalesce(change.state, 'open'), closed_by = change.closer,
        closed_at = case when change.state is not null then moment end
      from unnest(h_hold, h_captured, h_closed_as, h_closer) as change (id, more, state, closer)
      where holds.id = change.id and (change.more > 0 or change.state is not null)
    ), changed_accounts as (
      update accounts set posted = now.posted, held = now.held, spent = now.spent, seq = now.seq,
        moved_at = case when now.seq <> accounts.seq then moment else moved_at end
      from unnest(account_ids, a_posted, a_held, a_spent, a_seq, a_held_before, a_seq_before)
        as now (id, posted, held, spent, seq, held_before, seq_before)
      where accounts.id = now.id and accounts.id = any (account_ids)
        and (now.seq, now.held) <> (now.seq_before, now.held_before)
    )
    insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
      credit_id, credit_seq, credit_after, kind, category, reverses, hold_id, posted_at,
      effective_at, metadata)
    select t.id, t.op, l.asset, t.amount, l.debit_id, t.debit_seq, t.debit_after,
      l.credit_id, t.credit_seq, t.credit_after, l.kind, l.category,
      l.reverses, l.hold_id, moment, l.effective_at, l.metadata
    from unnest(t_id[:t_count], t_op[:t_count], t_leg[:t_count], t_amount[:t_count],
        t_debit_seq[:t_count], t_debit_after[:t_count], t_credit_seq[:t_count],
        t_credit_after[:t_count])
      as t (id, op, leg, amount, debit_seq, debit_after, credit_seq, credit_after)
    join asked as l on l.n = t.leg;
  end if;
  return outcomes;
end $$;
revoke execute on function post_in_turn(ledger_leg[], accounts[]) from public;

create or replace function answered_before(known bytea, asked bytea, outcome jsonb) returns jsonb
language sql immutable parallel safe
return case
  when known = asked then outcome || '{"replayed": true}' else '{"error": "idempotency.key_reused"}' end;

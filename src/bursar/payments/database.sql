-- Payments: what was asked for never changes, what has come of it only goes forward, and every change
-- leaves a row. Customers see their own and may ask for one; what comes of it, only the worker writes.

-- The status is what the amounts say; `failed` alone is said, and only before any money has come.
create or replace function status_of(said text, captured numeric, refunded numeric) returns text
language sql immutable parallel safe
return case
  when captured = 0 then said
  when refunded = 0 then 'completed'
  when refunded < captured then 'partially_refunded'
  else 'refunded' end;

create or replace function payment_rank(status text) returns integer
language sql immutable parallel safe
return array_position(
  array['pending', 'failed', 'completed', 'partially_refunded', 'refunded'], status);

create or replace function begin_payment() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  new.provider := coalesce(new.provider, case
    when new.payment_method in ('stripe', 'paypal') then new.payment_method else 'manual' end);
  if (new.status, new.captured, new.refunded, new.refund_pending, new.disputed, new.fee)
    is distinct from ('pending', 0, 0, 0, 0, 0)
  then
    raise exception 'a payment begins pending' using errcode = 'integrity_constraint_violation';
  end if;
  if new.method_id is not null and not exists (
    select from payment_methods
    where id = new.method_id and user_id = new.user_id and provider = new.provider)
  then
    raise exception 'a payment is made by a method of its own customer'
      using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
create or replace trigger begin_payment before insert on payments
  for each row execute function begin_payment();

-- Forward only. A row of a customer who is deleted loses its owner, and a saved method may go.
create or replace function advance_payment() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if (old.amount, old.currency, old.payment_method, old.purpose, old.provider, old.test_mode,
      old.service_id, old.appointment_id, old.training_id, old.invoice_id, old.created_at)
    is distinct from
    (new.amount, new.currency, new.payment_method, new.purpose, new.provider, new.test_mode,
      new.service_id, new.appointment_id, new.training_id, new.invoice_id, new.created_at)
    or (new.user_id is distinct from old.user_id and new.user_id is not null)
    or (new.method_id is distinct from old.method_id and new.method_id is not null
      and old.method_id is not null)
    or new.stripe_payment_intent_id is distinct from
      coalesce(old.stripe_payment_intent_id, new.stripe_payment_intent_id)
    or new.paypal_order_id is distinct from coalesce(old.paypal_order_id, new.paypal_order_id)
  then
    raise exception 'what a payment was asked for is not changed'
      using errcode = 'integrity_constraint_violation';
  end if;
  if new.status <> old.status and new.status <> status_of(new.status, new.captured, new.refunded) then
    raise exception 'a payment is not %: its amounts say otherwise', new.status
      using errcode = 'integrity_constraint_violation';
  end if;
  new.status := status_of(new.status, new.captured, new.refunded);
  if payment_rank(new.status) < payment_rank(old.status)
    or new.captured < old.captured or new.refunded < old.refunded or new.fee < old.fee
  then
    raise exception 'a payment does not go back from % to %', old.status, new.status
      using errcode = 'integrity_constraint_violation';
  end if;
  if new.captured > 0 and old.captured = 0 then
    new.payment_date := coalesce(new.payment_date, now());
  end if;
  return new;
end $$;
create or replace trigger advance_payment before update on payments
  for each row execute function advance_payment();
create or replace trigger touch before update on payments
  for each row execute function touch();
create or replace trigger touch before update on payment_methods
  for each row execute function touch();
create or replace trigger touch before update on refunds
  for each row execute function touch();
call never_removed('payments');

-- Definer's rights: nobody writes history but through this trigger.
create or replace function keep_payment_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if tg_op = 'UPDATE' and (old.status, old.captured, old.refunded, old.disputed)
    is not distinct from (new.status, new.captured, new.refunded, new.disputed)
  then
    return null;
  end if;
  insert into payment_audits (payment_id, old_status, new_status, change_reason, changed_by,
    captured, refunded, provider_data)
  values (new.id, case when tg_op = 'UPDATE' then old.status end, new.status, new.change_reason,
    coalesce(new.changed_by, current_subject()::text, session_user), new.captured, new.refunded,
    new.change_data);
  return null;
end $$;
revoke execute on function keep_payment_change() from public;
create or replace trigger keep_change after insert or update on payments
  for each row execute function keep_payment_change();
call write_once('payment_audits');

-- The summary: sixteen rows of each kind, so that payments settled at once do not queue at one. They
-- are locked in the order in which statuses go forward, so that nobody waits in a circle.
create or replace function add_up_payments() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  insert into payment_totals as total (payment_method, status, currency, shard, payments, amount)
  select payment_method, status, currency, pg_backend_pid() % 16, sum(n), sum(n * amount)
  from (
    select payment_method, status, currency, amount, 1 as n from changed
    union all
    select payment_method, status, currency, amount, -1 from former
  ) as step
  group by payment_method, status, currency
  having sum(n) <> 0 or sum(n * amount) <> 0
  order by payment_method, payment_rank(status), currency
  on conflict (payment_method, status, currency, shard) do update
    set payments = total.payments + excluded.payments, amount = total.amount + excluded.amount;
  return null;
end $$;
create or replace function add_up_new_payments() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  insert into payment_totals as total (payment_method, status, currency, shard, payments, amount)
  select payment_method, status, currency, pg_backend_pid() % 16, count(*), sum(amount)
  from changed
  group by payment_method, status, currency
  order by payment_method, payment_rank(status), currency
  on conflict (payment_method, status, currency, shard) do update
    set payments = total.payments + excluded.payments, amount = total.amount + excluded.amount;
  return null;
end $$;
revoke execute on function add_up_payments(), add_up_new_payments() from public;
create or replace trigger add_up_new after insert on payments
  referencing new table as changed for each statement execute function add_up_new_payments();
create or replace trigger add_up after update on payments
  referencing old table as former new table as changed
  for each statement execute function add_up_payments();

create or replace view payment_summary with (security_invoker) as
select payment_method, status, currency, sum(payments)::bigint as payment_count,
  sum(amount) as total_amount
from (
  select payment_method, status, currency, payments, amount from payment_totals
  union all
  select payment_method, status, currency, 1, amount from payments
  where session_user = 'app_user'
) as each_one
group by payment_method, status, currency
having sum(payments) > 0;

-- Refunds: what is under way and what is done is counted in the payment, where a CHECK bounds it; so
-- of two that race for the same money one is refused, whoever asks.
create or replace function begin_refund() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if new.status <> 'pending' then
    raise exception 'a refund begins pending' using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
create or replace trigger begin_refund before insert on refunds
  for each row execute function begin_refund();
create or replace function count_refund() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  pending numeric := 0;
  done numeric := 0;
begin
  if tg_op = 'INSERT' then
    pending := new.amount;
  elsif (old.payment_id, old.amount, old.destination, old.taken, old.created_at)
    is distinct from (new.payment_id, new.amount, new.destination, new.taken, new.created_at)
    or (new.status <> old.status
      and (old.status, new.status) not in
        (('pending', 'completed'), ('pending', 'failed'), ('completed', 'returned'),
          ('failed', 'returned')))
  then
    raise exception 'a refund only goes forward' using errcode = 'integrity_constraint_violation';
  elsif old.status = 'pending' and new.status <> 'pending' then
    pending := -new.amount;
    done := case when new.status = 'completed' then new.amount else 0 end;
  elsif old.status = 'failed' and new.status = 'returned' then
    done := new.amount;  -- it had been done before it failed, and that was told last
  end if;
  if pending <> 0 or done <> 0 then
    update payments set refund_pending = refund_pending + pending, refunded = refunded + done,
      change_reason = left(coalesce('refund: ' || new.reason, 'refund'), 500),
      changed_by = new.requested_by, change_data = jsonb_build_object('refund_id', new.id)
    where id = new.payment_id;
  end if;
  return null;
end $$;
revoke execute on function count_refund() from public;
create or replace trigger count_refund after insert or update on refunds
  for each row execute function count_refund();
call never_removed('refunds');

-- Disputes, likewise. A refund of a payment with an open dispute is refused by name in Python, and
-- here by what is left.
create or replace function count_dispute() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if tg_op = 'INSERT' then
    select least(new.amount, captured - refunded - refund_pending - disputed) into new.counted
    from payments where id = new.payment_id for no key update;
    update payments set disputed = disputed + new.counted, change_reason = 'dispute opened',
      changed_by = 'provider', change_data = jsonb_build_object('dispute_id', new.id)
    where id = new.payment_id;
  elsif (old.payment_id, old.provider_dispute_id, old.amount, old.counted)
    is distinct from (new.payment_id, new.provider_dispute_id, new.amount, new.counted)
    or (new.status <> old.status and old.status <> 'open')
  then
    raise exception 'a dispute only goes forward' using errcode = 'integrity_constraint_violation';
  elsif new.status <> old.status then
    update payments set disputed = disputed - new.counted,
      refunded = refunded + case when new.status = 'lost' then new.counted else 0 end,
      change_reason = 'dispute ' || new.status, changed_by = 'provider',
      change_data = jsonb_build_object('dispute_id', new.id)
    where id = new.payment_id;
  end if;
  return new;
end $$;
revoke execute on function count_dispute() from public;
create or replace trigger count_dispute before insert or update on disputes
  for each row execute function count_dispute();
call never_removed('disputes');

-- What was ever taken from us of a payment, also if it came back since: it only grows.
create or replace function money_taken(its_payment uuid) returns numeric
language sql stable as $$
  select coalesce((select sum(counted) from disputes
      where payment_id = its_payment and status = 'lost'), 0)
    + coalesce((select sum(amount) from refunds
      where payment_id = its_payment and status in ('completed', 'returned') and taken), 0)
$$;
revoke execute on function money_taken(uuid) from public;
grant execute on function money_taken(uuid) to staff_user, worker_user;

-- Who may do what.
call lock_down('payments');
call let_owner('payments', 'select, insert (user_id, amount, currency, payment_method, purpose,
  service_id, appointment_id, training_id, invoice_id, description, reference, provider, test_mode,
  method_id, save_method, metadata, idempotency_key, fingerprint, change_reason, changed_by)');
call let_staff('payments', 'select, insert (user_id, amount, currency, payment_method, purpose,
  service_id, appointment_id, training_id, invoice_id, description, reference, provider, test_mode,
  method_id, save_method, metadata, idempotency_key, fingerprint, change_reason, changed_by)');
call let_worker('payments', 'select, insert, update');

call lock_down('payment_audits');
call let_owner('payment_audits', its => 'payment_id', through => 'payments');
call let_staff('payment_audits');
call let_worker('payment_audits');

call lock_down('refunds');
call let_owner('refunds', its => 'payment_id', through => 'payments');
call let_staff('refunds');
call let_worker('refunds', 'select, insert, update');

call lock_down('disputes');
call let_owner('disputes', its => 'payment_id', through => 'payments');
call let_staff('disputes');
call let_worker('disputes', 'select, insert, update');

call lock_down('payment_events');
call let_staff('payment_events');
call let_worker('payment_events', 'select, insert, update, delete');

call lock_down('payment_methods');
call let_owner('payment_methods', 'select, update (is_default), delete');
call let_staff('payment_methods');
call let_worker('payment_methods', 'select, insert, update, delete');

call lock_down('provider_customers');
call let_owner('provider_customers');
call let_staff('provider_customers');
call let_worker('provider_customers', 'select, insert, update, delete');

call lock_down('payment_totals');
call let_staff('payment_totals');
call let_worker('payment_totals');
call let_analytics('payment_totals');
-- The view asks for both tables whoever looks; a customer's role sees no row of the totals.
grant select on payment_totals to app_user;
grant select (payment_method, status, currency, amount) on payments to analytics_user;
revoke all on payment_summary from app_user, staff_user, worker_user, analytics_user;
grant select on payment_summary to app_user, staff_user, worker_user, analytics_user;

-- Webhooks and the job that reads them, in one statement; it answers those that are new. In the order
-- of their keys, so that two batches with the same events do not wait for each other.
create or replace function take_payment_events(taking jsonb)
returns table (its_provider text, its_id text)
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
declare
  taken uuid[];
begin
  with new_ones as (
    insert into payment_events (provider, event_id, type, payload, headers, happened_at)
    select provider, event_id, type, payload, headers, happened_at
    from jsonb_to_recordset(taking) as given(provider text, event_id text, type text, payload text,
      headers jsonb, happened_at timestamptz)
    order by provider, event_id
    on conflict (provider, event_id) do nothing returning id
  )
  select array_agg(id) into taken from new_ones;
  if taken is not null then
    perform enqueue_job('payments.read_events', json_build_object('events', to_json(taken)));
  end if;
  return query select provider::text, event_id::text from payment_events where id = any (taken);
end $$;
revoke execute on function take_payment_events(jsonb) from public;
grant execute on function take_payment_events(jsonb) to worker_user;

-- Invoices: what is left of the money for one, and how it is settled, once.

-- What is left here of the money that has paid for something: by an operation of the ledger, or by a
-- payment.
create or replace function money_kept(its_operation uuid, its_payment uuid) returns numeric
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select trim_scale((amount
    - coalesce((select sum(amount) from transfers where reverses = paid.id), 0))
    / power(10::numeric, assets.scale))
  from transfers as paid join assets on assets.code = paid.asset where paid.id = its_operation
  union all
  select captured - refunded from payments where id = its_payment
$$;
revoke execute on function money_kept(uuid, uuid) from public;

create or replace function invoice_money_kept(its_id uuid) returns numeric
language sql stable security definer set search_path = pg_catalog, public, pg_temp as $$
  select money_kept(operation_id, payment_id) from invoices
  where id = its_id and (session_user <> 'app_user' or user_id = current_subject())
$$;
revoke execute on function invoice_money_kept(uuid) from public;
grant execute on function invoice_money_kept(uuid) to app_user, staff_user, worker_user;

-- Invoices: numbered without a gap in each year, and settled once: by the whole of their total, or by
-- being given up. Where less than that stays of the money that has paid one, and something of it was
-- taken since it was last found to be enough (`taken_before`), or nothing is left, it may be open
-- again, or in the latter case given up: then it says nothing of that money any more, and the payment
-- does. What we had given back of money that was then taken is forgiven: nobody asks for it again.
-- `taken_known` is what of that need not be looked at any more: it opens an invoice only once.
create or replace trigger number_in_series before insert on invoices
  for each row execute function number_in_series();

create or replace function advance_invoice() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  its_payment constant uuid := coalesce(old.payment_id, new.payment_id);
  looks constant boolean := new.taken_known <> old.taken_known;
  kept numeric;
  pending numeric;
  stays numeric;
  gone numeric;
begin
  new.forgiven := old.forgiven;
  new.taken_before := old.taken_before;
  new.taken_known := old.taken_known;
  if (old.id, old.year, old.number, old.month, old.currency, old.total, old.issued_at)
    is distinct from
    (new.id, new.year, new.number, new.month, new.currency, new.total, new.issued_at)
    or new.user_id is distinct from old.user_id and new.user_id is not null
    or old.status <> 'open' and (old.status, new.status) not in (('paid', 'open'), ('paid', 'void'))
      and (new.status, new.paid_at, new.operation_id, new.payment_id, new.void_reason)
      is distinct from (old.status, old.paid_at, old.operation_id, old.payment_id, old.void_reason)
    or (old.status, new.status) <> ('paid', 'open')
      and (new.due_at, new.reopened_at, new.reopen_reason)
      is distinct from (old.due_at, old.reopened_at, old.reopen_reason)
  then
    raise exception 'an invoice is settled once, and never changed'
      using errcode = 'integrity_constraint_violation';
  end if;
  if old.status = 'paid' or new.status = 'paid' then  -- in one statement: all of one moment
    select money_kept(coalesce(old.operation_id, new.operation_id), its_payment),
      (select refund_pending from payments where id = its_payment), money_taken(its_payment)
    into kept, pending, gone;
    stays := kept - coalesce(pending, 0);
  end if;
  if old.status = 'paid' and new.status <> 'paid' then
    if new.status = 'open' and (stays >= old.total - old.forgiven or kept > 0 and gone <= old.taken_before)
      or kept > 0 and new.status = 'void'
    then
      raise exception 'an invoice is settled once, unless the money for it is gone'
        using errcode = 'integrity_constraint_violation';
    end if;
    new.paid_at := null;
    new.operation_id := null;
    new.payment_id := null;
    new.taken_before := 0;
    new.taken_known := 0;
    if new.status = 'open' then
      new.reopened_at := now();
      new.overdue_mailed_at := null;
      if gone > old.taken_before then  -- that was meant to stay, and what stays
        new.forgiven := old.total - least(old.total - old.forgiven, stays + gone - old.taken_before);
      end if;
    end if;
  elsif old.status = 'paid' and looks and stays >= old.total - old.forgiven then
    new.taken_before := gone;  -- it is as if it had been paid now
    new.taken_known := gone;
  elsif old.status = 'open' and new.status = 'paid' then
    if kept < new.total - new.forgiven
      or new.payment_id is not null and not exists (
        select from payments where id = new.payment_id and invoice_id = new.id)
      or new.operation_id is not null and not exists (
        select from transfers join accounts on accounts.id = debit_id
        where transfers.id = new.operation_id and owner_id = new.user_id
          and transfers.asset = new.currency)
    then
      raise exception 'an invoice is paid by the whole of what is to be paid, for it'
        using errcode = 'integrity_constraint_violation';
    end if;
    new.taken_before := gone;
    new.taken_known := gone;
  end if;
  return new;
end $$;
revoke execute on function advance_invoice() from public;
create or replace trigger advance_invoice before update on invoices
  for each row execute function advance_invoice();
create or replace trigger touch before update on invoices
  for each row when (old.status is distinct from new.status) execute function touch();
call never_removed('invoices');

-- A payment for an invoice is its customer's, in its currency.
create or replace function check_invoice_payment() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  if not exists (
    select from invoices
    where id = new.invoice_id and user_id = new.user_id and currency = new.currency)
  then
    raise exception 'a payment for an invoice is its customer''s, in its currency'
      using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
revoke execute on function check_invoice_payment() from public;
create or replace trigger check_invoice before insert on payments
  for each row when (new.invoice_id is not null) execute function check_invoice_payment();

-- At the end of its transaction an invoice is the sum of its lines, rounded down to what can be paid:
-- also where a line was added, or none was.
create or replace function check_invoice_total() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  its_id uuid := case tg_table_name when 'invoices' then (to_jsonb(new) ->> 'id')::uuid
    else (to_jsonb(new) ->> 'invoice_id')::uuid end;
begin
  if exists (
    select from invoices join assets on assets.code = invoices.currency
    where invoices.id = its_id and total is distinct from (
      select trunc(sum(amount) / power(10::numeric, assets.scale), scale(total))
      from usage_charges where invoice_id = its_id))
  then
    raise exception 'an invoice is the sum of its lines' using errcode = 'integrity_constraint_violation';
  end if;
  return null;
end $$;
revoke execute on function check_invoice_total() from public;
drop trigger if exists check_invoice_total on invoices;
create constraint trigger check_invoice_total after insert on invoices
  deferrable initially deferred for each row execute function check_invoice_total();
drop trigger if exists check_invoice_total on usage_charges;
create constraint trigger check_invoice_total after insert on usage_charges
  deferrable initially deferred for each row when (new.invoice_id is not null)
  execute function check_invoice_total();

-- Who may see and do what.

call lock_down('invoices');
call let_owner('invoices');
call let_staff('invoices',
  'select, update (status, void_reason, reopen_reason, due_at, next_try_at)');
create policy open_or_void on invoices as restrictive to staff_user
  with check (status in ('open', 'void'));
call let_worker('invoices', 'select, insert (user_id, month, currency, total, due_at),
  update (status, paid_at, operation_id, payment_id, next_try_at, overdue_mailed_at, due_at,
    reopen_reason, taken_known)');

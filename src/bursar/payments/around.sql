-- Around payments: receipts, saved methods that go, automatic top-ups, reconciliation, the bank.

create or replace trigger number_in_series before insert on receipts
  for each row execute function number_in_series();
call write_once('receipts');

call lock_down('receipts');
call let_owner('receipts', its => 'payment_id', through => 'payments');
call let_staff('receipts');
call let_worker('receipts', 'select, insert (payment_id, series, company, support_email)');

-- Whoever deletes a saved method, and also where it goes with its customer: the provider is told.
create or replace function keep_forgotten_method() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  insert into forgotten_methods (provider, token) values (old.provider, old.token);
  return null;
end $$;
revoke execute on function keep_forgotten_method() from public;
create or replace trigger keep_forgotten after delete on payment_methods
  for each row execute function keep_forgotten_method();

call lock_down('forgotten_methods');
call let_worker('forgotten_methods', 'select, update, delete');

call lock_down('method_notices');
call let_worker('method_notices', 'select, insert');

create or replace trigger touch before update on auto_topups
  for each row execute function touch();
call lock_down('auto_topups');
call let_owner('auto_topups', 'select, delete,
  insert (user_id, threshold, amount, currency, method_id, at_most_per_day, enabled),
  update (threshold, amount, currency, method_id, at_most_per_day, enabled, declines, retry_at)');
-- And only with a method of one's own; the sub-query sees no other.
create policy own_method on auto_topups as restrictive to app_user
  with check (method_id is null or method_id in (select id from payment_methods));
call let_staff('auto_topups');
call let_worker('auto_topups', 'select, update, delete');

call lock_down('provider_bookings');
call let_staff('provider_bookings');
call let_worker('provider_bookings', 'select, insert, update, delete');

call lock_down('reconciliations');
call let_staff('reconciliations');
call let_worker('reconciliations', 'select, insert, update');

create or replace trigger touch before update on reconciliation_differences
  for each row execute function touch();
call never_removed('reconciliation_differences');
call lock_down('reconciliation_differences');
call let_staff('reconciliation_differences',
  'select, update (status, note, closed_by, settled_at)');
call let_worker('reconciliation_differences', 'select, insert, update');

-- What a bank has said is never changed; only what is thought of it.
create or replace function keep_bank_line() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  if (old.statement_id, old.hash, old.account, old.booked_on, old.amount, old.currency, old.name,
      old.reference, old.bank_reference)
    is distinct from
    (new.statement_id, new.hash, new.account, new.booked_on, new.amount, new.currency, new.name,
      new.reference, new.bank_reference)
    or old.status = 'matched' and new.status <> 'matched'
  then
    raise exception 'a line of a bank statement is not changed'
      using errcode = 'integrity_constraint_violation';
  end if;
  return new;
end $$;
create or replace trigger keep_line before update on bank_lines
  for each row execute function keep_bank_line();
call never_removed('bank_lines');
call write_once('bank_statements');

call lock_down('bank_statements');
call let_staff('bank_statements');
call let_worker('bank_statements', 'select, insert');

call lock_down('bank_lines');
call let_staff('bank_lines');
call let_worker('bank_lines', 'select, insert, update');

call lock_down('bank_matches');
call let_staff('bank_matches');
call let_worker('bank_matches', 'select, insert, update');

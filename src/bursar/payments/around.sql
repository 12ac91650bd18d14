-- Around payments: receipts, saved methods that go, automatic top-ups, reconciliation, the bank.

create or replace trigger number_in_series before insert on receipts
  for each row execute function number_in_series();
call write_once('receipts');

call lock_down('receipts');
grant select on receipts to app_user, staff_user, worker_user;
grant insert (payment_id, series, company, support_email) on receipts to worker_user;
create policy own on receipts for select to app_user
  using (payment_id in (select id from payments));
create policy staff on receipts for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
create policy worker on receipts to worker_user using (true) with check (true);

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
grant select, update, delete on forgotten_methods to worker_user;
create policy worker on forgotten_methods to worker_user using (true) with check (true);

call lock_down('method_notices');
grant select, insert on method_notices to worker_user;
create policy worker on method_notices to worker_user using (true) with check (true);

create or replace trigger touch before update on auto_topups
  for each row execute function touch();
call lock_down('auto_topups');
grant select, delete on auto_topups to app_user;
grant insert (user_id, threshold, amount, currency, method_id, at_most_per_day, enabled),
  update (threshold, amount, currency, method_id, at_most_per_day, enabled, declines, retry_at)
  on auto_topups to app_user;
-- Only with a method of one's own; the sub-query sees no other.
create policy own on auto_topups to app_user
  using (user_id = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid)
  with check (
    user_id = (select nullif(current_setting('request.jwt.claim.sub', true), ''))::uuid
    and (method_id is null or method_id in (select id from payment_methods))
  );
grant select on auto_topups to staff_user;
create policy staff on auto_topups for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, update, delete on auto_topups to worker_user;
create policy worker on auto_topups to worker_user using (true) with check (true);

call lock_down('provider_bookings');
grant select on provider_bookings to staff_user;
create policy staff on provider_bookings for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert, update, delete on provider_bookings to worker_user;
create policy worker on provider_bookings to worker_user using (true) with check (true);

call lock_down('reconciliations');
grant select on reconciliations to staff_user;
create policy staff on reconciliations for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert, update on reconciliations to worker_user;
create policy worker on reconciliations to worker_user using (true) with check (true);

create or replace trigger touch before update on reconciliation_differences
  for each row execute function touch();
call never_removed('reconciliation_differences');
call lock_down('reconciliation_differences');
grant select, update (status, note, closed_by, settled_at) on reconciliation_differences
  to staff_user;
create policy staff on reconciliation_differences to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null)
  with check ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert, update on reconciliation_differences to worker_user;
create policy worker on reconciliation_differences to worker_user using (true) with check (true);

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
grant select on bank_statements to staff_user;
create policy staff on bank_statements for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert on bank_statements to worker_user;
create policy worker on bank_statements to worker_user using (true) with check (true);

call lock_down('bank_lines');
grant select on bank_lines to staff_user;
create policy staff on bank_lines for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert, update on bank_lines to worker_user;
create policy worker on bank_lines to worker_user using (true) with check (true);

call lock_down('bank_matches');
grant select on bank_matches to staff_user;
create policy staff on bank_matches for select to staff_user
  using ((select nullif(current_setting('request.jwt.claim.sub', true), '')) is not null);
grant select, insert, update on bank_matches to worker_user;
create policy worker on bank_matches to worker_user using (true) with check (true);

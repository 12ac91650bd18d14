-- Settings: staff read and change them, the worker reads them, every change is kept.

call lock_down('settings');
call let_staff('settings', 'select, insert, update');
call let_worker('settings');
call let_door('settings');
call let_customers('settings');

call lock_down('setting_changes');
call let_staff('setting_changes');

create or replace function sign_setting() returns trigger
language plpgsql set search_path = pg_catalog, public, pg_temp as $$
begin
  new.updated_by := current_subject();
  return new;
end $$;

-- Definer's rights: staff may not write history except through this trigger. The moment is that of
-- the change, under its lock: by the start of their transactions two changes may stand the wrong way
-- round.
create or replace function keep_setting_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
begin
  insert into setting_changes (key, old, new, changed_at, changed_by)
  values (
    new.key,
    case when tg_op = 'INSERT' then null else old.value end,
    new.value,
    clock_timestamp(),
    current_subject()
  );
  return null;
end $$;
revoke execute on function keep_setting_change() from public;

create or replace trigger sign before insert or update on settings
  for each row execute function sign_setting();
create or replace trigger touch before update on settings
  for each row execute function touch();
create or replace trigger keep_change after insert or update on settings
  for each row execute function keep_setting_change();
create or replace trigger refuse_removal before delete on settings
  for each row execute function refuse_change();
call write_once('setting_changes');

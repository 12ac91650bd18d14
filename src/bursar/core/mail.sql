-- The outbox of mails: whoever needs a mail sent may add it, only the worker reads what is there.

-- Five columns and no reading: a login role in the wrong hands can neither see the links in other
-- people's mails nor say of a mail that it was sent. What it adds unsealed, the worker refuses.
call lock_down('mails');
grant insert (id, template, recipient, subject, sealed) on mails to app_user, auth_user, staff_user;
create policy adding on mails for insert to app_user, auth_user, staff_user with check (true);
call let_worker('mails',
  'select, insert (id, template, recipient, subject, sealed), update, delete');

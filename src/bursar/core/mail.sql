-- The outbox of mails.
select 1;

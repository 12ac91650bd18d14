-- The audit trail.
select 1;

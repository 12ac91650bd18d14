-- Throttles.
select 1;

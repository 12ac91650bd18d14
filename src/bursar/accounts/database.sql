-- Customers and staff.
select 1;

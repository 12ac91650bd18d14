"""Invoices whose payment is taken back are open again; one table of numbers without a gap."""

from bursar.migrations.script import run

revision = "20261128_0020"
down_revision = "20261128_0019"


def upgrade() -> None:
    for script in (TAKEN, REOPENED, SERIES, COSTS):
        run(script)


# Taken from us, by a check that bounced or a bank: nobody here has given it back.
TAKEN = """
alter table refunds add column taken boolean not null default false;
update refunds set taken = true where provider_refund_id like 'bounce:%';
"""

REOPENED = """
alter table invoices add column reopened_at timestamptz;
alter table invoices add column reopen_reason varchar;
alter table invoices add constraint ck_invoices_reopened
  check ((reopened_at is null) = (reopen_reason is null));
alter table invoices add constraint ck_invoices_reopen_reason
  check (length(reopen_reason) between 3 and 500);
"""

# Whoever writes one meanwhile is waited for: a number that was missed would be given out again.
SERIES = """
lock table receipts, invoices, receipt_numbers, invoice_numbers in access exclusive mode;
create table series_numbers (
  series varchar not null,
  year smallint not null,
  last integer not null,
  constraint pk_series_numbers primary key (series, year)
);
insert into series_numbers (series, year, last)
select 'receipts.' || series, year, last from receipt_numbers
union all select 'invoices', year, last from invoice_numbers;
drop table receipt_numbers, invoice_numbers;
drop function if exists number_receipt() cascade;
drop function if exists number_invoice() cascade;
"""

# They answer another type, which cannot be replaced.
COSTS = """
drop function if exists usage_due(uuid[], text, text);
drop function if exists usage_cost(jsonb, bigint, bigint, integer);
"""

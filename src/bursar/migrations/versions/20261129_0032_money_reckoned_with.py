"""An invoice knows what of its payment's money had been taken before: that opens it no more.

Of the invoices that are paid already, what was taken and told of is left to staff, as it was. What
was taken and not told of yet still opens one.
"""

from bursar.migrations.script import run

revision = "20261129_0032"
down_revision = "20261129_0031"


def upgrade() -> None:
    run("""
    alter table invoices add column taken_before numeric not null default 0,
      add column taken_known numeric not null default 0,
      add constraint ck_invoices_taken check (taken_before >= 0 and taken_known >= taken_before);

    alter table invoices disable trigger user;
    with taken as (
      select payment_id, counted as amount, closed_at as at from disputes where status = 'lost'
      union all
      select payment_id, amount, settled_at from refunds
      where taken and status in ('completed', 'returned')
    ), told as (
      select payment_id, sum(amount) as amount from taken
      where not exists (
        select from events join event_positions as position
          on (events.xid, events.id) > (position.xid, position.event_id)
        where position.subscriber = 'billing.mark_paid'
          and events.name in ('payments.refunded', 'payments.disputed')
          and events.payload ->> 'payment_id' = taken.payment_id::text
          and events.occurred_at = taken.at)  -- they were one transaction
      group by payment_id
    )
    update invoices set taken_known = told.amount,
      taken_before = case when captured - refunded - refund_pending >= total - forgiven
        then told.amount else 0 end
    from told join payments on payments.id = told.payment_id
    where invoices.status = 'paid' and invoices.payment_id = told.payment_id;
    alter table invoices enable trigger user;
    drop function if exists money_meant_to_stay(uuid);
    """)

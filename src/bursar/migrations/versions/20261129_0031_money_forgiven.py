"""What was given back on purpose is not asked for again; what PayPal has reversed was taken.

Before 0020 a refund did not say so. The webhook that told of it does, where it is still kept.
"""

from bursar.migrations.script import run

revision = "20261129_0031"
down_revision = "20261129_0030"


def upgrade() -> None:
    run(r"""
    alter table invoices add column forgiven numeric not null default 0,
      add constraint ck_invoices_forgiven check (
        forgiven >= 0 and forgiven < total and (forgiven = 0 or reopened_at is not null));

    alter table refunds disable trigger user;
    update refunds set taken = true
    from payment_events as event
    where not refunds.taken and refunds.requested_by = 'paypal'
      and event.provider = 'paypal' and event.type = 'PAYMENT.CAPTURE.REVERSED'
      and case when position('\u0000' in event.payload) = 0  -- PostgreSQL reads no JSON with that
        then event.payload::json -> 'resource' ->> 'id' end = refunds.provider_refund_id;
    alter table refunds enable trigger user;
    """)

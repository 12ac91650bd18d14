"""What was refunded or contested is not spent: it went back the way it had come."""

from bursar.migrations.script import run

revision = "20261129_0033"
down_revision = "20261129_0032"


def upgrade() -> None:
    run("""
    alter table accounts disable trigger user;
    update accounts set spent = spent - back.amount
    from (
      select debit_id, sum(amount)::bigint as amount from transfers
      where kind in ('refund', 'dispute') and reverses is null group by debit_id
    ) as back
    where accounts.id = back.debit_id;
    alter table accounts enable trigger user;

    update wallet_days set spent = spent - back.amount, transfers = transfers - back.number
    from (
      select debit_id, (posted_at at time zone 'UTC')::date as day,
        coalesce(category, 'other') as category, sum(amount) as amount, count(*) as number
      from transfers join account_positions as position
        on position.account_id = debit_id and position.follower = 'wallets.spending'
      where kind in ('refund', 'dispute') and reverses is null and debit_seq <= position.seq
      group by 1, 2, 3
    ) as back
    where wallet_days.account_id = back.debit_id and wallet_days.day = back.day
      and wallet_days.category = back.category;
    """)

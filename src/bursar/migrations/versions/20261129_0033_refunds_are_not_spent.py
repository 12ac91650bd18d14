"""What was refunded or contested is not spent: it went back the way it had come.

What was reversed of it is of its kind from now on, and brings nothing back that was spent.
"""

from bursar.migrations.script import run

revision = "20261129_0033"
down_revision = "20261129_0032"


def upgrade() -> None:
    run("""
    alter table accounts disable trigger user;
    alter table transfers disable trigger user;
    lock table account_positions in share row exclusive mode;  -- nobody adds up meanwhile

    update transfers as back set kind = original.kind
    from transfers as original
    where original.id = back.reverses and original.kind in ('refund', 'dispute');

    update accounts set spent = accounts.spent - back.spent
    from (
      select account_id, sum(amount)::bigint as spent
      from (
        select debit_id as account_id, amount from transfers
        where kind in ('refund', 'dispute') and reverses is null
        union all
        select credit_id, -amount from transfers
        where kind in ('refund', 'dispute') and reverses is not null
      ) as counted
      group by account_id
    ) as back
    where accounts.id = back.account_id;

    update wallet_days set spent = wallet_days.spent - back.spent,
      transfers = wallet_days.transfers - back.transfers
    from (
      select account_id, (posted_at at time zone 'UTC')::date as day,
        coalesce(category, 'other') as category, sum(amount) as spent, sum(number) as transfers
      from (
        select debit_id as account_id, debit_seq as seq, posted_at, category, amount, 1 as number
        from transfers where kind in ('refund', 'dispute') and reverses is null
        union all
        select credit_id, credit_seq, posted_at, category, -amount, 0
        from transfers where kind in ('refund', 'dispute') and reverses is not null
      ) as counted
      join account_positions as position using (account_id)
      where position.follower = 'wallets.spending' and counted.seq <= position.seq
      group by 1, 2, 3
    ) as back
    where wallet_days.account_id = back.account_id and wallet_days.day = back.day
      and wallet_days.category = back.category;
    delete from wallet_days where spent = 0 and transfers = 0;

    alter table accounts enable trigger user;
    alter table transfers enable trigger user;
    """)

"""What was refunded or contested is not spent: it went back the way it had come.

What was reversed of it is of its kind from now on, and brings nothing back that was spent. Whoever
had such a transfer is counted anew, from all of their transfers.
"""

from bursar.migrations.script import run

revision = "20261129_0033"
down_revision = "20261129_0032"

THEIRS = """(
  select debit_id from transfers where kind in ('refund', 'dispute')
  union
  select credit_id from transfers where kind in ('refund', 'dispute') and reverses is not null
)"""


def upgrade() -> None:
    run(f"""
    alter table accounts disable trigger user;
    alter table transfers disable trigger user;
    lock table account_positions in share row exclusive mode;  -- nobody adds up meanwhile

    update transfers as back set kind = original.kind
    from transfers as original
    where original.id = back.reverses and original.kind in ('refund', 'dispute');

    update accounts set spent = counted.spent
    from (
      select account_id, sum(spent)::bigint as spent
      from (
        select debit_id as account_id,
          case when reverses is null and kind not in ('refund', 'dispute') then amount else 0 end
            as spent
        from transfers where debit_id in {THEIRS}
        union all
        select credit_id,
          case when reverses is null or kind in ('refund', 'dispute') then 0 else -amount end
        from transfers where credit_id in {THEIRS}
      ) as entries
      group by account_id
    ) as counted
    where accounts.id = counted.account_id;

    delete from wallet_days where account_id in {THEIRS};
    insert into wallet_days (account_id, day, category, spent, transfers)
    select account_id, (posted_at at time zone 'UTC')::date, coalesce(category, 'other'),
      sum(spent), sum(number)
    from (
      select debit_id as account_id, debit_seq as seq, posted_at, category, amount as spent,
        1 as number
      from transfers
      where debit_id in {THEIRS} and reverses is null and kind not in ('refund', 'dispute')
      union all
      select credit_id, credit_seq, posted_at, category, -amount, 0
      from transfers
      where credit_id in {THEIRS} and reverses is not null and kind not in ('refund', 'dispute')
    ) as entries
    join account_positions as position using (account_id)
    where position.follower = 'wallets.spending' and entries.seq <= position.seq
    group by 1, 2, 3;

    alter table accounts enable trigger user;
    alter table transfers enable trigger user;
    """)  # noqa: S608 - its own text

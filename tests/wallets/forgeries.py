"""Statements of a forger, each of which the database refuses from the superuser as well."""

FORGED = {
    "a balance": "update accounts set posted = posted + 1 where id = :a",
    "a balance with its number": """
        update accounts set posted = posted + 1, seq = seq + 1
        where id = :a""",
    "money that changes places": """
        update accounts set posted = posted + case id when :a then -10 else 10 end
        where id in (:a, :b)""",
    "the same with numbers": """
        update accounts set seq = seq + 1, posted = posted + case id when :a then -10 else 10 end
        where id in (:a, :b)""",
    "wallets that change places": """
        update accounts set owner_id = case id when :a then :user_b::uuid else :user_a end
        where id in (:a, :b)""",
    "ids that change places": """
        update accounts set id = case id when :a then :b::uuid else :a end
        where id in (:a, :b)""",
    "what is spent": "update accounts set spent = 0 where id = :a",
    "what is held": "update accounts set held = 0 where id = :a",
    "more that is held": "update accounts set held = held + 1 where id = :a",
    "a number": "update accounts set seq = seq + 1 where id = :a",
    "a number that goes back": "update accounts set seq = seq - 1 where id = :a",
    "the whole account goes back": """
        update accounts set (seq, posted, spent) = (1, 130, 0)
        where id = :a""",
    "when it moved": "update accounts set moved_at = now() + interval '1 day' where id = :a",
    "when it was opened": """
        update accounts set created_at = now() - interval '9 days'
        where id = :a""",
    "another asset": "update accounts set asset = 'POINTS' where id = :a",
    "another purpose": "update accounts set purpose = 'fees', owner_id = null where id = :a",
    "no owner while there is money": "update accounts set owner_id = null where id = :a",
    "closed while there is money": "update accounts set status = 'closed' where id = :b",
    "a limit that is passed already": "update accounts set overdraft = -1 where id = :b",
    "no account": "delete from accounts where id = :a",
    "no empty account either": "delete from accounts where seq = 0",
    "no accounts": "truncate accounts cascade",
    "no users": "truncate users cascade",
    "an account that is born with money": """
        insert into accounts (asset, posted, seq, moved_at) values ('USD', 5, 1, now())""",
    "an account that is born with a debt": """
        insert into accounts (asset, posted, overdraft)
        values ('USD', -5, 5)""",
    "an account that is born with holds": """
        insert into accounts (asset, held, overdraft)
        values ('USD', 5, 5)""",
    "a second wallet": "insert into accounts (asset, owner_id) values ('USD', :user_a)",
    "money on conflict": """
        insert into accounts (id, asset) values (:a, 'USD')
        on conflict (id) do update set posted = accounts.posted + 1""",
    "money by merge": """
        merge into accounts using (values (:a::uuid, -5), (:b, 5)) as more (id, delta)
        on accounts.id = more.id when matched then update set posted = posted + delta""",
    "money in two parts of a statement": """
        with one as (update accounts set posted = posted - 5 where id = :a)
        update accounts set posted = posted + 5 where id = :b""",
    "money by a new account that is changed at once": """
        with born as (insert into accounts (asset) values ('USD') returning id)
        update accounts set posted = posted + 5 where id = :a or id = (select id from born)""",
    "an edited transfer": "update transfers set amount = amount + 1 where id = :paid",
    "a transfer that stays as it is": "update transfers set amount = amount where id = :paid",
    "another kind": "update transfers set kind = 'gift' where id = :paid",
    "a transfer that is gone": "delete from transfers where id = :paid",
    "no transfers": "truncate transfers cascade",
    "a transfer merged away": """
        merge into transfers using (values (:paid::uuid)) as old (id)
        on transfers.id = old.id when matched then delete""",
    "an edited transfer on conflict": """
        insert into transfers select * from transfers where id = :paid
        on conflict (id) do update set amount = 1""",
    "a transfer twice": """
        insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
          credit_id, credit_seq, credit_after, kind, posted_at)
        select uuid7(), operation_id, asset, amount, debit_id, debit_seq + 1, debit_after - amount,
          credit_id, credit_seq + 1, credit_after + amount, kind, posted_at
        from transfers where id = :paid""",
    "an edited operation": "update operations set outcome = '{}' where id = :operation",
    "an operation that is gone": "delete from operations where id = :operation",
    "no operations": "truncate operations cascade",
    "a hold that is larger": "update holds set amount = amount + 1 where id = :hold",
    "a hold that is later": """
        update holds set expires_at = now() + interval '9 days'
        where id = :hold""",
    "a hold of somebody else": "update holds set account_id = :b where id = :hold",
    "a hold for something else": "update holds set category = 'gifts' where id = :hold",
    "a capture without a transfer": "update holds set captured = 5 where id = :hold",
    "a capture without a transfer, and free": """
        with freed as (update accounts set held = held - 5 where id = :a)
        update holds set captured = 5 where id = :hold""",
    "a hold closed, and still held": """
        update holds set state = 'voided', closed_at = now(), closed_by = :operation
        where id = :hold""",
    "a hold captured of nothing": """
        with freed as (update accounts set held = held - 20 where id = :a)
        update holds set state = 'captured', closed_at = now(), closed_by = :operation,
          captured = 20 where id = :hold""",
    "a hold reopened": """
        with again as (update accounts set held = held + 5 where id = :a)
        update holds set state = 'open', closed_at = null, closed_by = null where id = :gone""",
    "a hold that is gone": "delete from holds where id = :gone",
    "no holds": "truncate holds cascade",
    "a hold that nobody holds": """
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at) values (uuid7(), :operation, :a, 'USD', 5, 'charge', now(), now())""",
    "a hold beyond the limit": """
        with more as (update accounts set held = held + 81 where id = :a)
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at) values (uuid7(), :operation, :a, 'USD', 81, 'charge', now(), now())""",
    "a hold in another asset": """
        with more as (update accounts set held = held + 5 where id = :a)
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at) values (uuid7(), :operation, :a, 'POINTS', 5, 'charge', now(), now())""",
    "a hold that is born closed": """
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at, state, closed_at, closed_by)
        values (uuid7(), :operation, :a, 'USD', 5, 'charge', now(), now(), 'voided', now(),
          :operation)""",
    "an asset with another scale": "update assets set scale = 2 where code = 'USD'",
    "no asset": "delete from assets where code = 'POINTS'",
}  # fmt: skip

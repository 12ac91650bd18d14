"""What somebody whom no trigger stops may do to the ledger, and what verify() says of it."""

# What is done, what is found by which kind (and how many), and what the first sentence says.
DAMAGE: dict[str, tuple[str, dict[str, int], str]] = {
    "an amount": (
        "update transfers set amount = amount + 1 where id = :charged",
        {"wrong_balance": 2, "wrong_outcome": 1, "wrong_account": 2},
        "Transfer :charged ",
    ),
    "a balance in the chain": (
        "update transfers set debit_after = debit_after + 1 where id = :charged",
        {"wrong_balance": 2, "wrong_outcome": 1},
        "its balance there is 98500001, expected 98500000.",
    ),
    "a transfer that is gone": (
        "delete from transfers where id = :later",
        {"gap": 2, "missing_transfer": 1, "wrong_account": 2},
        "Operation :later made transfer :later, which is not there.",
    ),
    "the newest transfer that is gone": (
        "delete from transfers where id = :newest",
        {"missing_transfer": 1, "wrong_account": 2},
        "Operation :newest made transfer :newest, which is not there.",
    ),
    "a gap in the numbers": (
        """update transfers set debit_seq = -debit_seq where debit_id = :carl and debit_seq > 3;
           update transfers set debit_seq = 1 - debit_seq where debit_seq < 0;
           update transfers set credit_seq = credit_seq + 1
             where credit_id = :carl and credit_seq > 3;
           update accounts set seq = seq + 1 where id = :carl""",
        {"gap": 1},
        "Transfer :sent is entry 5 of account :carl; expected entry 4.",
    ),
    "a number that is there twice": (
        "update transfers set debit_seq = 1 where id = :charged",
        {"gap": 2},
        "Transfer :charged is entry 1 of account :carl; expected entry 2.",
    ),
    "a time before the one before": (
        "update transfers set posted_at = posted_at - interval '1 day' where id = :later",
        {"back_in_time": 2, "wrong_outcome": 1},
        "Transfer :later is entry ",
    ),
    "a time that is not that of the operation": (
        "update transfers set posted_at = posted_at + interval '1 microsecond' where id = :part",
        {"wrong_outcome": 1},
        "Transfer :part moved 2000000 USD",
    ),
    "the balance of an account": (
        "update accounts set posted = posted + 1 where id = :carl",
        {"wrong_account": 1, "unbalanced": 1},
        "Account :carl says: balance ",
    ),
    "what an account has spent": (
        "update accounts set spent = spent + 1 where id = :carl",
        {"wrong_account": 1},
        "Account :carl says: ",
    ),
    "the number of an account": (
        "update accounts set seq = seq + 1 where id = :dora",
        {"wrong_account": 1},
        "Account :dora says: ",
    ),
    "the time of an account": (
        "update accounts set moved_at = null where id = :dora",
        {"wrong_account": 1},
        "moved at no time; expected by its entries: balance ",
    ),
    "an account that is gone": (
        "delete from accounts where id = :dora",
        {"wrong_asset": 3, "unbalanced": 1},
        "; its accounts are in ",  # of several posted at one time either may be the first
    ),
    "what is held": (
        "update accounts set held = held - 1 where id = :carl",
        {"wrong_held": 1},
        "Account :carl says that 2999999 is held, expected 3000000 by its open holds.",
    ),
    "a limit that was lowered": (
        """alter table accounts drop constraint ck_accounts_within_limit;
           update accounts set held = posted + 1 where id = :carl""",
        {"wrong_held": 1, "beyond_limit": 1},
        "Account :carl ",
    ),
    "an operation that is gone": (
        "delete from operations where id = :charged",
        {"unknown_operation": 1},
        "No outcome names transfer :charged, expected that of operation :charged.",
    ),
    "an operation that did nothing": (
        """insert into operations (id, scope, key, fingerprint, outcome, actor, created_at)
           select uuid7(), scope, 'forged', fingerprint,
             jsonb_build_object('operation_id', id, 'legs', '[]'::jsonb), actor, created_at
           from operations where id = :charged""",
        {"empty_operation": 1, "wrong_outcome": 1},
        "",
    ),
    "an outcome that is no outcome": (
        """update operations set outcome = '{"legs": ["nothing", 7]}' where id = :charged""",
        {"empty_operation": 1, "unknown_operation": 1, "wrong_outcome": 1},
        "",
    ),
    "an amount in an outcome": (
        """update operations set outcome = jsonb_set(outcome, '{legs,0,amount}', '"a lot"')
           where id = :charged""",
        {"wrong_outcome": 1},
        "says a lot USD at ",
    ),
    "a transfer that was made up": (
        """insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
             credit_id, credit_seq, credit_after, kind, posted_at)
           select uuid7(), operation_id, transfers.asset, 1, debit_id, d.seq + 1, d.posted - 1,
             credit_id, c.seq + 1, c.posted + 1, kind, now()
           from transfers join accounts as d on d.id = debit_id
           join accounts as c on c.id = credit_id where transfers.id = :newest;
           update accounts set seq = accounts.seq + 1, posted = accounts.posted + delta,
             moved_at = made.posted_at, spent = spent - least(delta, 0)
           from (select debit_id as id, -1 as delta, posted_at from transfers where amount = 1
             union all select credit_id, 1, posted_at from transfers where amount = 1) as made
           where made.id = accounts.id""",
        {"unknown_operation": 1},
        "expected that of operation :newest.",
    ),
    "a transfer of another operation": (
        "update transfers set operation_id = :later where id = :charged",
        {"wrong_outcome": 1},
        "for operation :later",
    ),
    "an asset": (
        "update transfers set asset = 'POINTS' where id = :charged",
        {"wrong_asset": 1, "wrong_outcome": 1, "wrong_reversal": 1},
        "Transfer :charged ",
    ),
    "the asset of a hold": (
        "update holds set asset = 'POINTS' where id = :held",
        {"wrong_asset": 1, "wrong_outcome": 1},
        "Hold :held ",
    ),
    "a hold that is larger": (
        "update holds set amount = amount + 1 where id = :held",
        {"wrong_held": 1, "wrong_outcome": 1},
        "Hold :held of 3000001 USD was opened at ",
    ),
    "a hold that is gone": (
        "delete from holds where id = :held",
        {"missing_hold": 1, "wrong_held": 1},
        "Operation :held opened or closed hold :held, which is not there",
    ),
    "a captured hold that is gone": (
        "delete from holds where id = :taken",
        {"missing_hold": 1, "wrong_captured": 1},
        "Operation :taken opened",
    ),
    "a hold that was made up": (
        """insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
             expires_at)
           select uuid7(), operation_id, account_id, asset, 1, kind, created_at, expires_at
           from holds where id = :held;
           update accounts set held = held + 1 where id = :carl""",
        {"unknown_operation": 1},
        "was opened, expected that of operation :held.",
    ),
    "what a hold has captured": (
        "update holds set captured = captured + 1 where id = :taken",
        {"wrong_captured": 1},
        "Hold :taken says that 3000001 is captured, expected 3000000 by its transfers.",
    ),
    "a hold that is open again": (
        "update holds set state = 'open', closed_at = null, closed_by = null where id = :voided",
        {"missing_hold": 1, "wrong_held": 1},
        "Operation :void opened or closed hold :voided",
    ),
    "a hold that somebody else voided": (
        "update holds set closed_by = :rest where id = :voided",
        {"missing_hold": 1, "unknown_operation": 1},
        "",
    ),
    "a hold that somebody else captured": (
        "update holds set closed_by = :void where id = :taken",
        {"wrong_captured": 1},
        "Hold :taken was captured by operation :void, which has no transfer of it.",
    ),
    "a capture of another hold": (
        "update transfers set hold_id = :voided where id = :part",
        {"wrong_captured": 2, "wrong_outcome": 1},
        "",
    ),
    "a capture from another account": (
        "update holds set account_id = :dora where id = :taken",
        {"wrong_captured": 2},
        "captures hold :taken from account :carl, expected :dora.",
    ),
    "more back than there was": (
        "update transfers set amount = 499999 where id = :charged",
        {"wrong_balance": 2, "wrong_outcome": 1, "wrong_account": 2, "wrong_reversal": 1},
        "Transfer :charged ",
    ),
    "the reversal of another transfer": (
        "update transfers set reverses = :funded where id = :back",
        {"wrong_reversal": 1},
        "Transfer :back reverses :funded, but not the way it went",
    ),
    "the reversal of a reversal": (
        "update transfers set reverses = :back where id = :back",
        {"wrong_reversal": 1},
        "Transfer :back reverses :back, which is a reversal itself.",
    ),
    "a transfer at no time": (
        "update transfers set posted_at = 'infinity' where id = :charged",
        {"back_in_time": 2, "wrong_outcome": 1, "wrong_account": 2},
        "Transfer :charged moved ",
    ),
    "a number below the first": (
        "update transfers set debit_seq = -5 where id = :later",
        {"gap": 2},
        "Transfer :later is entry -5 of account :carl; expected entry 1.",
    ),
    "a leg that is told twice": (
        """update operations set outcome = jsonb_set(outcome, '{legs, 1}', outcome #> '{legs, 0}')
           where id = :charged""",
        {"wrong_outcome": 1},
        "The outcome of operation :charged names transfer :charged 2 times.",
    ),
    "an asset that is gone": (
        """update accounts set asset = 'EUR'
           where (purpose, asset, shard) = ('suspense', 'USD', 0)""",
        {"wrong_asset": 1},
        "is in EUR, which is no asset.",
    ),
    "a reversal that is none any more": (
        "update transfers set reverses = null where id = :back",
        {"wrong_account": 2},
        "Account ",
    ),
}

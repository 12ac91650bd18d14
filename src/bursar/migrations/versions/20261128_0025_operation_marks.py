"""What stands for a scope and a key is sixteen bytes, and the index over it a third of the size.

Keys are random, so each new one changes some page of their index, and the first change of a page
after a checkpoint writes all of it into the log. The fewer pages, the sooner that is over.
"""

from bursar.migrations.script import run

revision = "20261128_0025"
down_revision = "20261128_0024"


def upgrade() -> None:
    run("""
    -- Half a SHA-256; the length tells ('a', 'bc') from ('ab', 'c'). An index stands on it, so it
    -- never changes, and is of immutable functions: decode() with backslashes doubled gives the
    -- bytes of a text as convert_to() does, which is none.
    create function operation_mark(scope text, key text) returns uuid
    language sql immutable parallel safe
    return encode(substr(sha256(decode(
      replace(length(scope)::text || ':' || scope || key, '\\', '\\\\'), 'escape'
    )), 1, 16), 'hex')::uuid;

    create unique index uq_operations_mark on operations (operation_mark(scope, key));
    alter table operations drop constraint uq_operations_scope_key;
    create index ix_operations_created_at on operations using brin (created_at);
    create index ix_operations_granted on operations (scope, created_at)
      where starts_with(scope, 'rewards.grants ');
    """)

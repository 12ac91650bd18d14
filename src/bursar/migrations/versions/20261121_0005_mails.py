"""Mails: the outbox."""

from bursar.migrations.script import run

revision = "20261121_0005"
down_revision = "20261121_0004"


def upgrade() -> None:
    run(MAILS)


# queued_at is the Date of the mail: when it was last put on the way, the same at each attempt.
MAILS = """
create table mails (
  id uuid not null,
  template varchar not null,
  recipient varchar not null,
  subject uuid,
  sealed bytea,
  status varchar not null default 'waiting',
  attempts integer not null default 0,
  message_id varchar,
  reason varchar,
  created_at timestamptz not null default now(),
  queued_at timestamptz not null default now(),
  settled_at timestamptz,
  constraint pk_mails primary key (id),
  constraint ck_mails_status check (status in ('waiting', 'kept', 'sent', 'failed')),
  constraint ck_mails_recipient check (length(recipient) between 3 and 254),
  constraint ck_mails_size check (octet_length(sealed) <= 400000),
  constraint ck_mails_emptied check (status <> 'sent' or sealed is null)
);
create index ix_mails_created_at on mails (created_at, id);
create index ix_mails_recipient on mails (lower(recipient));
create index ix_mails_subject on mails (subject);
"""

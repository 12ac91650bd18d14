"""The audit trail and its seals."""

revision = "20261121_0006"
down_revision = "20261121_0005"


def upgrade() -> None:
    pass

"""Sessions: who is signed in where, and which refresh token is good."""

revision = "20261121_0003"
down_revision = "20261120_0002"


def upgrade() -> None:
    pass

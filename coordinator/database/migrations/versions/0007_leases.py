"""Which process leads each run, where several work on one database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; nobody leads any run yet."""
    op.create_table(
        "leases",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("holder", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=300), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("live", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_leases_run_id"),
        sa.PrimaryKeyConstraint("run_id", name="pk_leases"),
    )


def downgrade() -> None:
    """Take it back; every coordinator but one has to be stopped first."""
    op.drop_table("leases")

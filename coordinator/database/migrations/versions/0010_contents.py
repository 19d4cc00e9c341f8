"""Files of runs that are kept outside the coordinator's directory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; files in directories have no rows."""
    op.create_table(
        "contents",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.LargeBinary(length=32), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_contents_run_id"),
        sa.PrimaryKeyConstraint("run_id", "name", name="pk_contents"),
    )


def downgrade() -> None:
    """Take it back; every run that was kept elsewhere has to be over and exported first."""
    op.drop_table("contents")

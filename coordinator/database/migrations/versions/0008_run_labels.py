"""Labels of runs: notes of the operator, which no plan holds and no member is sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; the runs that are there have no labels."""
    op.create_table(
        "run_labels",
        sa.Column("run_id", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=32), nullable=False),
        sa.Column("value", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.run_id"], name="fk_run_labels_run_id"),
        sa.PrimaryKeyConstraint("run_id", "key", name="pk_run_labels"),
    )


def downgrade() -> None:
    """Take it back; the labels are lost, and nothing else is."""
    op.drop_table("run_labels")

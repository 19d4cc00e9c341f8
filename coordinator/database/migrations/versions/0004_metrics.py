"""Measurements have figures by name, in place of a count of what is right.

Those that were recorded before go: evaluators signed them in another form, which no report has a place for.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision."""
    op.execute("DELETE FROM evaluations")
    with op.batch_alter_table("evaluations") as table:
        table.drop_column("correct")
        table.add_column(sa.Column("metrics", sa.Text(), nullable=False))


def downgrade() -> None:
    """Take it back."""
    op.execute("DELETE FROM evaluations")
    with op.batch_alter_table("evaluations") as table:
        table.drop_column("metrics")
        table.add_column(sa.Column("correct", sa.BigInteger(), nullable=False))

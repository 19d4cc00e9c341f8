"""Certificates that were issued in place of members' present ones, until they are used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; nothing has been renewed yet."""
    with op.batch_alter_table("members", schema=None) as batch_op:
        batch_op.add_column(sa.Column("renewed", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Take it back; members whose certificate was on its way ask again."""
    with op.batch_alter_table("members", schema=None) as batch_op:
        batch_op.drop_column("renewed")

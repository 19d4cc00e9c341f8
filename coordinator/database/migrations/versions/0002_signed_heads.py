"""Ledger heads carry the signature of the ledger's key; what a member showed last is found by its name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; heads that are there get their signature at their member's next handshake."""
    with op.batch_alter_table("heads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("signature", sa.LargeBinary(), nullable=False, server_default=sa.text("''")))
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.create_index("ix_events_sender", ["sender", "kind"], unique=False)


def downgrade() -> None:
    """Go back to the revision before."""
    with op.batch_alter_table("events", schema=None) as batch_op:
        batch_op.drop_index("ix_events_sender")
    with op.batch_alter_table("heads", schema=None) as batch_op:
        batch_op.drop_column("signature")

"""Which members poll each coordinator's process."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; the processes that run say it within seconds."""
    op.add_column("coordinators", sa.Column("live", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    """Take it back."""
    op.drop_column("coordinators", "live")

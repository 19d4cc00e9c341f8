"""Heads of ledgers are kept by the identity that signs them: a member that enrols anew begins another ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build this revision; a head belongs to the identity that its member has now."""
    op.rename_table("heads", "heads_by_name")
    op.create_table(
        "heads",
        sa.Column("identity_key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("identity_key", name="pk_heads_identity"),
    )
    op.execute(
        "INSERT INTO heads (identity_key, member, sequence, hash, at, signature)"
        " SELECT members.identity_key, member, sequence, hash, at, signature"
        " FROM heads_by_name JOIN members ON members.name = heads_by_name.member"
    )
    op.drop_table("heads_by_name")


def downgrade() -> None:
    """Take it back; of a name the head of the newest identity stays."""
    op.rename_table("heads", "heads_by_identity")
    op.create_table(
        "heads",
        sa.Column("member", sa.String(length=63), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("member", name="pk_heads_member"),
    )
    op.execute(
        "INSERT INTO heads (member, sequence, hash, at, signature)"
        " SELECT member, sequence, hash, at, signature FROM heads_by_identity"
        " WHERE identity_key IN (SELECT identity_key FROM members)"
    )
    op.drop_table("heads_by_identity")

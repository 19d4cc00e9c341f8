"""The tables of the coordinator's database.

Guarantees: the schema that the migrations build is the one declared here (a test compares them); times are whole
seconds since the Unix epoch, but for those by the database's clock, which are in milliseconds.
Leaves to others: what is written when (``coordinator.database.member_rows``, ``coordinator.database.run_rows``).
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
metadata = sa.MetaData(naming_convention=NAMING)

members = sa.Table(
    "members",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("identity_key", sa.LargeBinary(32), nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),  # PEM
    sa.Column("labels", sa.Text, nullable=False),  # k=v, comma-separated
    sa.Column("software_version", sa.String(128), nullable=False),  # as of the last handshake; empty before
    sa.Column("enrolled_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Column("renewed", sa.LargeBinary),  # PEM: issued in place of the certificate, and not used yet
    sa.Column("last_seen", sa.BigInteger),  # when it was last connected, to a minute; empty before the first time
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("token_id", sa.String(64), primary_key=True),
    sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("made_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("used_at", sa.BigInteger),
    sa.Column("request_hash", sa.LargeBinary(32)),  # of the enrolment that spent it: the very same may be repeated
)

datasets = sa.Table(
    "datasets",
    metadata,
    sa.Column("member", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("units", sa.BigInteger, nullable=False),
)

heads = sa.Table(
    "heads",
    metadata,
    sa.Column("identity_key", sa.LargeBinary(32), primary_key=True),  # that signs the ledger: it outlives its name
    sa.Column("member", sa.String(63), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False, server_default=sa.text("''")),  # of the ledger's key
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary(64), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),  # why it ended; empty while it goes on and when completed
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("abort_requested", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
)

run_labels = sa.Table(
    "run_labels",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("value", sa.String(64), nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("holder", sa.String(32), nullable=False),  # the process that leads the run; empty: it was handed over
    sa.Column("address", sa.String(300), nullable=False),  # where members dial that process
    sa.Column("token", sa.BigInteger, nullable=False),  # one more each time that somebody takes the lease
    sa.Column("expires_at", sa.BigInteger, nullable=False),  # milliseconds since the epoch, by the database's clock
    sa.Column("live", sa.Text, nullable=False),  # members of the run that poll the holder; names, comma-separated
)

coordinators = sa.Table(
    "coordinators",
    metadata,
    sa.Column("process", sa.String(32), primary_key=True),  # as the holder of a lease
    sa.Column("address", sa.String(300), nullable=False),  # where members dial it
    sa.Column("version", sa.String(128), nullable=False),  # of its software
    sa.Column("started_at", sa.BigInteger, nullable=False),  # milliseconds since the epoch, by the database's clock
    sa.Column("seen_at", sa.BigInteger, nullable=False),  # likewise, when it last said that it runs
    sa.Column("beat", sa.BigInteger, nullable=False),  # how often it has said so
    sa.Column("clock_ms", sa.BigInteger, nullable=False),  # by how much its clock is ahead of the database's
    sa.Column("live", sa.Text, nullable=False, server_default=""),  # members that poll it; names, comma-separated
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("member", sa.String(63), primary_key=True),
    sa.Column("approved", sa.Boolean, nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("because", sa.Text, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("phase", sa.String(16), nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("sender", sa.String(63), nullable=False),  # a member, or "coordinator" when a phase closes
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Index("ix_events_attempt", "run_id", "round", "attempt"),
    sa.Index("ix_events_sender", "sender", "kind"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("member", sa.String(63), primary_key=True),
    sa.Column("sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),
)

rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("certificate", sa.LargeBinary, nullable=False),
    sa.Column("transcript", sa.LargeBinary(32), nullable=False),
    sa.Column("survivors", sa.Integer, nullable=False),
    sa.Column("dropouts", sa.Text, nullable=False),  # names, comma-separated
    sa.Column("adapter_hash", sa.LargeBinary(32), nullable=False),  # of the iterate that the next round starts from
    sa.Column("sum_sha256", sa.LargeBinary(32), nullable=False),  # of the sum's ring words
    sa.Column("sum_length", sa.BigInteger, nullable=False),  # in bytes
    sa.Column("released_sha256", sa.LargeBinary(32), nullable=False),  # what is evaluated and exported
    sa.Column("length", sa.BigInteger, nullable=False),  # bytes of an adapter
    sa.Column("completed_at", sa.BigInteger, nullable=False),
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("evaluator", sa.String(63), primary_key=True),
    sa.Column("metrics", sa.Text, nullable=False),  # canonical JSON: names and values
    sa.Column("examples", sa.BigInteger, nullable=False),
    sa.Column("adapter_sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("data_sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("signature", sa.LargeBinary(64), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

contents = sa.Table(
    "contents",
    metadata,
    sa.Column("run_id", sa.String(32), sa.ForeignKey("runs.run_id"), primary_key=True),
    sa.Column("name", sa.String(200), primary_key=True),  # of a file in the run's directory
    sa.Column("sha256", sa.LargeBinary(32), nullable=False),
    sa.Column("length", sa.BigInteger, nullable=False),  # in bytes
)

security = sa.Table(
    "security",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(128), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("previous", sa.LargeBinary(32), nullable=False),
    sa.Column("hash", sa.LargeBinary(32), nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text, nullable=False),  # argon2id, with its salt and parameters
    sa.Column("added_at", sa.BigInteger, nullable=False),
)

logins = sa.Table(
    "logins",
    metadata,
    sa.Column("token_hash", sa.LargeBinary(32), primary_key=True),  # SHA-256 of what the cookie holds
    sa.Column("user", sa.String(63), nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)

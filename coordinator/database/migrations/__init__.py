"""The schema's history; alembic runs it on ``init``, ``start`` and ``migrate``."""

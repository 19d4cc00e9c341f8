"""The life of a run: creation, rounds, attempts, uploads, the end."""

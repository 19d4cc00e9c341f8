"""The process that takes part, and what it keeps on disk."""

"""Which process leads which run, where several coordinators work on one database."""

"""What is committed: the store, its tables, and the rows of members, runs and attempts."""

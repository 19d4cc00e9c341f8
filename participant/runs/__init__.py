"""This participant in its runs: tasks answered, rounds charged, journals kept."""

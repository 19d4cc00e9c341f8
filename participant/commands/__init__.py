"""The owner's commands: one file per noun."""

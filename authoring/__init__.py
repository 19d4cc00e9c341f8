"""The researcher's commands: from a recipe to a draft, and which methods there are."""

"""The researcher's door: from a recipe to a draft, and which methods there are."""

"""Recipes for each kind of task, with what makes their data; not part of the installed program."""

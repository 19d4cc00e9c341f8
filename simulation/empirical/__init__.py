"""The empirical audit: real training on synthetic rows, held against what is claimed of it."""

"""The empirical audit: real training on made-up rows, held against what is claimed of it."""

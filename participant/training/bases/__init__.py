"""What a base must be before a plan may name it: whole files, and a model that runs; how it lies in memory."""

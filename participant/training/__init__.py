"""Training on private data: torch and its libraries live here and nowhere else."""

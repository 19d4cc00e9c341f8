"""What a base model must be before a plan may name it: whole files, and a model that runs."""

"""Many participants on one machine: ``onlysum simulate``."""

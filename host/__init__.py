"""What every program here does on its machine: files, keys, configuration, output, clock and randomness."""

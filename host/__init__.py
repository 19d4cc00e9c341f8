"""What every program here does on its machine: files, keys, configuration, logs, output, clock and randomness."""

"""One attempt at a round as a pure state machine: no network, clock, files or randomness of its own."""

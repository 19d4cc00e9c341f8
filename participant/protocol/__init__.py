"""A participant's side of a round as a pure state machine, and what it remembers."""

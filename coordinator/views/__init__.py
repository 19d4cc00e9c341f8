"""What an operator sees, as values."""

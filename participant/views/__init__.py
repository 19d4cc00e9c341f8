"""What an owner sees, as values."""

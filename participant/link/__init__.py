"""The way to the coordinator: identity, connection, delivery."""

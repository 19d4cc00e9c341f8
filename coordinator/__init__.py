"""The server: sees only masked updates and their sum; starts without torch."""

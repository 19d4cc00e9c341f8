"""Who belongs to the federation: its authority, invitations, and the directory's creation."""

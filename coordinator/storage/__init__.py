"""Where what must outlive this machine is kept, if not in its directory alone."""

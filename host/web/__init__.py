"""Pages over HTTP on this machine: what the coordinator's dashboard and the owner's page have in common."""

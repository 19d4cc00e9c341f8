"""What of a coordinator's work somebody should hear of."""

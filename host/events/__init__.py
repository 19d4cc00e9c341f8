"""Events that somebody should hear of: to a webhook, to a command, to both."""

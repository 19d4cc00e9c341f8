"""The owner's page: plans, spend and reports in a browser on this machine."""

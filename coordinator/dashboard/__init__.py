"""The admin listener: what operators and auditors see in a browser, metrics and health."""

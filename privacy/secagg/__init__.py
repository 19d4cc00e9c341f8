"""Secure aggregation: double masking with a signed survivor set (docs/protocol.md)."""

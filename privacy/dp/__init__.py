"""Differential privacy: what a round costs (events), what it adds up to (accountants), and the mechanism's integers.

Guarantees: nothing here reads data, a clock or the network; only the torch files import torch.
Source: docs/privacy-accounting.md.
"""

"""The wire: what crosses the network, and the only code that knows protobuf."""

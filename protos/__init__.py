"""The wire: what crosses the network, and the only code that knows protobuf; with what both of its ends do alike.

That is how they keep files and keys, read configuration, print, and look after themselves: coordinator and participant
never import each other, and this is the lowest room that may know files.
"""

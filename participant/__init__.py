"""The client: holds data, keys and the un-masked update."""

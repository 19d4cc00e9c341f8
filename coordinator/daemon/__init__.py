"""The process that serves: the network service, the runner, and its state on disk."""

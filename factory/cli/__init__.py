"""The factory command: thin over the SDK; starts the processes."""

"""Text: where it comes from, how it becomes tokens, the network that continues it, and sampling from it."""

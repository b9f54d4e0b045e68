"""Train deep networks without weight transport, and measure what that does."""

"""To look things up: what is often told about PyTorch, and what holds."""

"""Models: what they are made of, how they are composed, where they come from."""

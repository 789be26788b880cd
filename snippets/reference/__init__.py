"""To look things up: what is often told wrong, the cheat sheet, and how all of it is verified."""

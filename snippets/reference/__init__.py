"""To look things up: the cheat sheet and what else one comes back for."""

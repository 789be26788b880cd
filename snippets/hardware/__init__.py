"""Hardware: GPUs, speed, several processes."""

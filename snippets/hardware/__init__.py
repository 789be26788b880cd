"""Hardware: code of the pages in docs/hardware."""

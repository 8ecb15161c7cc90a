"""Image architectures, one per file."""

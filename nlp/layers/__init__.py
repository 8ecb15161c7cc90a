"""Language-only blocks used by two or more models."""

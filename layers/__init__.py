"""Domain-free blocks used by two or more models: sequences [B, T, D] in, out."""

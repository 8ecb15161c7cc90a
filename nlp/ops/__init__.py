"""Pure functions on token ids, without parameters."""

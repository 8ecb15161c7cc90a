"""Pure functions on images without parameters."""

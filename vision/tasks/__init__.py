"""Image objectives."""

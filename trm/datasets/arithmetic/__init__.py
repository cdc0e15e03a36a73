"""Addition."""

"""Addition of two numbers."""

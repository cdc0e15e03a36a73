"""What is said at a run's end."""

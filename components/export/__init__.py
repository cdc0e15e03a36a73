"""Component of stage `export`."""

"""Component of stage `augment`."""

"""Component of stage `train`."""

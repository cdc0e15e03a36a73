"""Component of stage `fetch`."""

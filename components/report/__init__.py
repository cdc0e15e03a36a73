"""The component of stage `evaluate`."""

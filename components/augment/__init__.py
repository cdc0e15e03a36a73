"""The component of stage `augment`."""

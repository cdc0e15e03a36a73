"""The component of stage `train`."""

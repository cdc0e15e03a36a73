"""The component of stage `fetch`."""

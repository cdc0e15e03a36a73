"""Errors, paths, devices, progress."""

"""Errors, paths, devices and progress bars."""

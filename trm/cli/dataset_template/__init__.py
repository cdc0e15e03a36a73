"""Rows of digits, to be sorted."""

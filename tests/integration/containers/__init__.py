"""Tests with containers. A package, so that the engine ends, and its files are deleted, with its last test."""

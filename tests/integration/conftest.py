"""The fixtures of tests/containers.py, shared by all tests in this folder."""

from tests.containers import base, engine, image

__all__ = ["base", "engine", "image"]

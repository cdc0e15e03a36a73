"""The fixtures of tests/containers.py, made once for all the tests in this folder."""

from tests.containers import base, engine, image

__all__ = ["base", "engine", "image"]

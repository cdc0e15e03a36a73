"""The fixtures of containers."""

from tests.containers import base, engine, image

__all__ = ["base", "engine", "image"]

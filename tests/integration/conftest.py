"""The fixtures of containers and of launchers, shared by the tests in this folder."""

from tests.components.train.launcher_fixtures import base_params, folders, operator, stage
from tests.containers import base, engine, image

__all__ = ["base", "base_params", "engine", "folders", "image", "operator", "stage"]

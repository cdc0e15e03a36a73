"""The fixtures of launchers, shared by the tests in this folder."""

from tests.components.train.launcher_fixtures import base_params, folders, operator, stage

__all__ = ["base_params", "folders", "operator", "stage"]

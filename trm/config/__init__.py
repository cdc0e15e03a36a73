"""Typed settings of `params.yaml`, and the recipes."""

"""Kubeflow Pipelines: define, compile, submit, watch and collect runs."""

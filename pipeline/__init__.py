"""Kubeflow pipeline, retraining and local development. The package runs from a checkout and is not installed."""

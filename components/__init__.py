"""The stages as components of a Kubeflow pipeline, and what runs inside their containers."""

"""The stages as container components of a Kubeflow pipeline, and the programs that run in their containers."""

"""The pipeline on Kubeflow, and what its developers start on their own machine. It runs from a checkout alone."""

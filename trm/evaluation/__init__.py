"""Evaluation: the stage, metrics, test-time-compute sweep, submission."""

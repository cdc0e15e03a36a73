"""Retraining: plan, compare, promote and publish results."""

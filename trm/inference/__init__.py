"""Inference: supervision steps, samples, verification, voting, solving a puzzle."""

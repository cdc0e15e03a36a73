"""Evaluation: answers, votes, rule checks and scores."""

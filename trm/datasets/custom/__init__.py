"""Custom puzzles from a CSV or JSONL file."""

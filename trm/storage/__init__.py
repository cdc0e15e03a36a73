"""Artifact folders, S3 and the local artifact cache."""

"""Local development: the pipeline in Docker, and an S3 server."""

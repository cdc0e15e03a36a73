"""Exit handler of the pipeline."""

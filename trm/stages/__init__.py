"""The stages of the pipeline: records, content keys, runner."""

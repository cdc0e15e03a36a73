"""What all datasets share: Parquet, CSV, augmentation plans, deduplication, batching, downloads."""

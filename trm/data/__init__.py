"""Parts shared by all datasets: Parquet and CSV files, deduplication, batching, downloads."""

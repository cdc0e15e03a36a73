"""Studies: several recipes and seeds compared."""

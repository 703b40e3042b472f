"""Event logs, histories, keys and the split."""

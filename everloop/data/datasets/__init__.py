"""One file a dataset: what its items and batches are."""

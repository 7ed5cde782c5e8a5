"""Measurements: one script a claim. Run one with `python -m benchmarks.NAME`, on a machine that does nothing else."""

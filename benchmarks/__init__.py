"""Ratios, each taken within one run. `python -m benchmarks` prints the table."""

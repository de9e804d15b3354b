"""What is timed beside its baseline; run by scripts/benchmark.py and scripts/gpu_check.py, no part of the library."""

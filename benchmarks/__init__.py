"""What is timed, beside its baseline; scripts/benchmark.py and gpu.py, on a GPU, run it."""

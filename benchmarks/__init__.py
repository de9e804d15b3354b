"""What is timed, beside its baseline; scripts/benchmark.py and scripts/gpu_check.py run it."""

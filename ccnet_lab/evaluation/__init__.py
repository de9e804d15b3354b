"""Evaluation: predict.py (image -> labels), metrics.py, protocol.py, evaluate.py, published.py (others' numbers)."""

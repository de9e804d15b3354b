"""Evaluation: predictions, metrics and protocols; published.py has others' numbers."""

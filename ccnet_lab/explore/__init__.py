"""Exploring: maps.py (attention -> maps), explorer.py (one model, one image), figures.py and pictures.py (arrays -> pictures)."""

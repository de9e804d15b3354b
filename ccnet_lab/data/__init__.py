"""Data: facts about data sets (catalog.py), pictures from files (images.py), generated scenes (beacons.py)."""

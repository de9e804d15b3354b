"""Generated data: beacons.py, scenes whose labels need long-range context."""

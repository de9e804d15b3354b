"""Scores and how they were measured: metrics.py counts, protocol.py says whether two may be compared, beacons.py scores the demo."""

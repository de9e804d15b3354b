"""The network: attention.py (the op), backbone.py, ccnet.py (the whole), weights.py, export.py."""

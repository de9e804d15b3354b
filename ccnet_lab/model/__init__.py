"""The network: attention.py (the op), backbone.py (features), ccnet.py (the whole), weights.py (state dicts in and out)."""

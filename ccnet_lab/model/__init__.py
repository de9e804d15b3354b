"""The network: attention.py (the op), backbone.py (features), ccnet.py (the whole), weights/ (files in and out), export.py."""

"""The Gradio app: server.py and a module per tab; what they show is computed in the other rooms."""

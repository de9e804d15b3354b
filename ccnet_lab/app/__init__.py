"""The Gradio app: server.py and a module per tab; what they show is computed in the other rooms."""

from ccnet_lab.app import gradio_import  # noqa: F401  before gradio

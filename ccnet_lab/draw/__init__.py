"""Drawing: arrays in, figures and pictures out; no torch, no pyplot state, nothing computed."""

"""Drawing: arrays in, figures and pictures out; no torch, no pyplot state. What is drawn is computed in the other rooms."""
